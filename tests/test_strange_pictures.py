"""What docs/strange-pictures.md quotes is what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_morse import AffineSubspace, LossSlice
from lightning_morse.distributed.errors import cause
from lightning_morse.monitoring.notices import tell_of_statistics

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "strange-pictures.md").read_text(encoding="utf-8")
SCRIPT = runpy.run_path(str(ROOT / "examples" / "strange_pictures.py"))
CASES, AGAIN = SCRIPT["CASES"], SCRIPT["AGAIN"]
CHEAP = {"slope", "noise", "cliff"}
LARGEST_BYTES = 60_000


def quoted():
    """The quotations of each section of the page, by the name of its picture."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        name = re.search(r"images/strange-(\w+)\.png", section)
        quotes = re.findall(r"(?:^> .*\n)+", section, flags=re.MULTILINE)
        said = [" ".join(line.removeprefix("> ") for line in q.splitlines()) for q in quotes]
        found[name[1] if name else section.splitlines()[0].split(":")[0]] = said
    return found


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def assert_as_quoted(said, quotation):
    """Word by word; numbers to 5 %, since fits end elsewhere in their last digits on other CPUs."""
    assert NUMBER.sub("#", said) == NUMBER.sub("#", quotation)
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (said, quotation)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=1e-8)


def marked(names):
    return [pytest.param(n, marks=[] if n in CHEAP else [pytest.mark.slow]) for n in names]


def test_the_page_has_all_cases_and_their_pictures():
    assert set(CASES) <= set(quoted())
    assert {len(said) for name, said in quoted().items()} == {1, 2}
    assert {name for name, said in quoted().items() if len(said) == 2} == set(AGAIN)
    for name in CASES:
        path = ROOT / "docs" / "images" / f"strange-{name}.png"
        assert path.stat().st_size < LARGEST_BYTES
        assert Image.open(path).width > 400


@pytest.mark.parametrize("name", marked(CASES))
def test_a_case_says_what_is_quoted(name):
    assert_as_quoted(CASES[name].said(CASES[name].analysis()), quoted()[name][0])


@pytest.mark.parametrize("name", marked(AGAIN))
def test_what_there_is_to_do_has_the_effect_that_is_quoted(name):
    result = AGAIN[name].analysis()
    assert_as_quoted(AGAIN[name].said(result), quoted()[name][1])
    if name == "twins":
        assert result.claim == "exactly 2 attractors"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "edge"])
def test_more_samples_do_not_decide_what_the_page_says_they_do_not(name):
    from lightning_morse.analysis.pipeline import analyze_from

    case = CASES[name]
    result = analyze_from(case.loss, case.now, [-1, -1], [1, 1], None, 256, 64, most=256)
    assert case.said(result).startswith("Undecided: ")


@pytest.mark.slow
def test_a_rough_loss_refutes_the_surrogate():
    result = CASES["rough"].analysis()
    assert result.calibration >= 2
    assert result.mu == 0


def test_a_constant_loss_has_the_cause_that_is_quoted():
    with pytest.raises(ValueError, match="a constant has no gradient flow") as failure:
        SCRIPT["Case"](lambda x: 0 * x[:, 0] + 2.3, (0.0, 0.0)).analysis()
    said = f"no analysis, training goes on ({cause(failure.value)})"
    assert [said] == quoted()["No picture at all"]


def test_a_batch_of_one_has_the_warning_that_is_quoted():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    line = AffineSubspace(weights, torch.eye(len(weights))[:, :1])
    loss = LossSlice(net, line, [torch.ones(1, 2)], lambda module, x: module(x).square().mean())
    loss(torch.zeros(1, 1, dtype=torch.float64))
    said = []
    given = loss.statistics, "batch"
    tell_of_statistics(*given, lambda why, about: said.append(why), lambda why, about: None)
    assert said == quoted()["The loss is not that of training"]


def test_the_script_draws(tmp_path, capsys):
    SCRIPT["main"](["--out", str(tmp_path), "--only", "slope"])
    assert (tmp_path / "strange-slope.png").stat().st_size < LARGEST_BYTES
    assert "Still descending" in capsys.readouterr().out

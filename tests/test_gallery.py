"""What docs/gallery.md and the README say of trainings is what is said of them today."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from tests.test_strange_pictures import assert_as_quoted

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = runpy.run_path(str(ROOT / "examples" / "gallery.py"))
CASES = SCRIPT["CASES"]
LARGEST_BYTES, MOST_BYTES = 120_000, 1_000_000


def quoted(page=PAGE, heading="## "):
    """What a page says of each training, by the name of its picture."""
    found = {}
    for section in page.split(f"\n{heading}")[1:]:
        (name,) = re.findall(r"images/gallery-([\w-]+)\.png", section)
        (quotation,) = re.findall(r"(?:^> .*\n)+", section, flags=re.MULTILINE)
        found[name] = " ".join(line.removeprefix("> ") for line in quotation.splitlines())
    return found


def claim(sentence):
    """What is said of the weights; what is said of passes depends on the last digits of a training.

    Those are others on other CPUs, and with them the places of the samples.
    """
    return re.split(r"[,.] ", sentence, maxsplit=1)[0]


def test_the_page_is_the_one_that_the_script_writes():
    said = quoted()
    assert list(said) == list(CASES)
    assert len(said) == 10
    parts = [
        SCRIPT["section"](case, said[name], f"images/gallery-{name}.png")
        for name, case in CASES.items()
    ]
    assert "\n".join([SCRIPT["head"](), *parts]) == PAGE


def test_the_readme_quotes_the_page():
    """One training of each kind, with what was trained."""
    shown = README.partition("\n## What it tells you\n")[2].partition("\n## ")[0]
    said = quoted(shown, "### ")
    assert [words.split()[0] for words in said.values()] == ["Certainly", "Still", "Undecided:"]
    assert said.items() <= quoted().items()
    for name, section in zip(said, shown.split("\n### ")[1:], strict=True):
        told = section.splitlines()[2].removesuffix(":").replace(" for ", ", ")
        for part in told.split(", "):  # and not the beginning of a longer number
            assert re.search(rf"{re.escape(part)}(?!\.?\d)", CASES[name].about)
    assert CASES["usual"].epochs == CASES["slow"].epochs == 12


def test_the_pictures_are_there_and_small():
    paths = [ROOT / "docs" / "images" / f"gallery-{name}.png" for name in CASES]
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) < LARGEST_BYTES
    assert sum(sizes) < MOST_BYTES
    assert all(Image.open(path).width > 400 for path in paths)


def test_the_kinds_of_answers_are_all_there():
    first = {said.split()[0] for said in quoted().values()}
    assert first == {"Certainly", "Still", "Undecided:"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", CASES)
def test_a_training_says_what_is_quoted(name, tmp_path):
    monitor = SCRIPT["train"](CASES[name])
    (row,) = monitor.history
    assert not row["morse/failed"]
    assert_as_quoted(claim(monitor.sentence), claim(quoted()[name]))


@pytest.mark.slow
def test_the_script_draws_and_writes(tmp_path, capsys):
    page = tmp_path / "page.md"
    SCRIPT["main"](["--images", str(tmp_path), "--page", str(page), "--only", "early"])
    (picture,) = tmp_path.glob("*.png")
    assert picture.name == "gallery-early.png"
    assert picture.stat().st_size < LARGEST_BYTES
    written = page.read_text(encoding="utf-8")
    assert PAGE.startswith(written[: written.index("## ")])
    assert CASES["early"].about in written
    assert str(picture) in capsys.readouterr().out

"""The truth that the benchmark of reliability holds claims against, its verdicts and tables."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch

from tests.benchmark_files import load
from tests.landscapes import HIMMELBLAU_MINIMA, bowl, double_well, himmelblau, plane

reliability = load("reliability")
dense_look, populations = sys.modules["dense_look"], sys.modules["populations"]
Row, Task = reliability.Row, reliability.Task
SQUARE = np.ones(2)


def row(claim="exactly", claimed=1, minima=1, **others):
    others = {"mu": 0.99, "mu_model": 0.99, "each": minima, **others}
    task = Task("a", others.pop("number", 0), 128, 64)
    return Row(task, {}, claim, claimed, minima=minima, **others)


def holed(x, place=(0.5, -0.4), width=0.1):
    """A bowl with a hole."""
    away = (x - torch.tensor(place)).square().sum(1)
    return x.square().sum(1) - torch.exp(-0.5 * away / width**2)


# ------------------------------------------------------------------ dense look


def pits(x):
    """Two pits with kinks, at (-0.3, 0.2) and (0.41, 0.2)."""
    return np.minimum(
        np.abs(x - [-0.3, 0.2]).sum(axis=1), 0.1 + 2 * np.abs(x - [0.41, 0.2]).sum(axis=1)
    )


def ravine(x):
    """Steep walls with a kink along the line x = 3 y, its floor gently bent, lowest at 0.3."""
    along = (x @ [3, 1]) / 10**0.5
    return 20 * np.abs(x @ [1, -3]) / 10**0.5 + 0.1 * (along - 0.3) ** 2


@pytest.mark.parametrize(
    ("values", "half", "expected"),
    [
        (bowl, 1, [[0, 0]]),
        (double_well, 1.6, [[1, 1], [1, -1], [-1, 1], [-1, -1]]),
        (himmelblau, 5, HIMMELBLAU_MINIMA),
        (pits, 1, [[-0.3, 0.2], [0.41, 0.2]]),
        (ravine, 1, [[0.9 / 10**0.5, 0.3 / 10**0.5]]),
        (plane, 1, []),
        (lambda x: bowl(x - 1.02), 1, []),
        (lambda x: bowl(x - 0.999), 1, [[0.999, 0.999]]),
    ],
)
def test_the_dense_look_finds_all_minima_and_no_others(values, half, expected):
    found = dense_look.all_minima(values, half * SQUARE, 201).places
    expected = np.array(expected, dtype=float).reshape(-1, 2)
    assert len(found) == len(expected)
    apart = np.linalg.norm(found[:, None] - expected, axis=2)
    assert apart.min(axis=0, initial=1) == pytest.approx(0, abs=1e-4 * half)


def test_a_bowl_with_a_hole_has_two_minima_as_long_as_the_hole_is_deep():
    landscape = populations.of_formula(holed, kinked=False, finest=0.1, dense=0, facts={})
    found = dense_look.all_minima(landscape.values, SQUARE, 401)
    assert found.places == pytest.approx(np.array([[0.495, -0.396], [0, 0]]), abs=5e-3)
    shallow = dense_look.all_minima(lambda x: bowl(x) - 0.02 * (bowl(x) - holed_np(x)), SQUARE, 401)
    assert len(shallow.places) == 1


def holed_np(x):
    return holed(torch.from_numpy(x)).numpy()


def test_widths_are_those_of_the_wells():
    """What lies below the pass at the origin, on one side; of uneven sides, after scaling."""
    fine = np.linspace(-1, 1, 1201)
    x, y = np.meshgrid(fine, fine, indexing="ij")
    well = dense_look._largest_disc(((x**2 - 0.25) ** 2 + y**2 < 1 / 16) & (x > 0))
    for half in (SQUARE, np.array([1.6, 0.4])):
        found = dense_look.all_minima(lambda x, h=half: two_wells(x / h), half, 201)
        assert found.widths == pytest.approx([well] * 2, abs=0.02)
    assert dense_look.all_minima(bowl, SQUARE, 201).widths == pytest.approx([1.0])


def two_wells(x):
    return (x[:, 0] ** 2 - 0.25) ** 2 + x[:, 1] ** 2


def test_of_two_dips_in_a_valley_the_shallow_one_has_a_narrow_well():
    """A dip of 0.02 on the slope of a valley: its basin is a strip as wide as it is, and longer."""

    def valley(x):
        dip = 0.02 * np.exp(-0.5 * ((x[:, 0] - 0.5) / 0.05) ** 2)
        return 0.1 * (x[:, 0] + 0.2) ** 2 + x[:, 1] ** 2 - dip

    found = dense_look.all_minima(valley, SQUARE, 401)
    assert len(found.places) == 2
    assert found.widths[0] > 0.15
    assert found.widths[1] < 0.06


def test_a_search_that_comes_to_no_rest_is_an_error(monkeypatch):
    monkeypatch.setattr(dense_look, "_MOST_ROUNDS", 50)
    with pytest.raises(RuntimeError, match="1 searches did not come to rest in 50 rounds"):
        dense_look.rest_points(lambda x: x[:, 0], np.zeros((1, 2)), 0.01)


def test_small_circles_follow_the_flow_along_kinks():
    """Down the wall, along the floor of the ravine; and out where the way leads out."""
    starts = np.array([[-0.9, 0.8], [0.3, 0.9]])
    ends = dense_look.rest_points(ravine, starts, 0.01, SQUARE)
    assert ends == pytest.approx(np.array([[0.9, 0.3]] * 2) / 10**0.5, abs=1e-4)
    (end,) = dense_look.rest_points(lambda x: x[:, 0], np.zeros((1, 2)), 0.01, SQUARE)
    assert -1.02 < end[0] < -1
    assert end[1] == pytest.approx(0, abs=1e-6)


def test_every_valley_that_leaves_a_point_is_looked_into():
    """One rises along the first axis, in sight of the circle; one falls between two angles."""
    out = np.array([np.cos(5 * np.pi / 48), np.sin(5 * np.pi / 48)])

    def valleys(x):
        along = x @ out
        falls = 20 * np.abs(x @ [out[1], -out[0]]) + 0.1 * along * (along - 1)
        return np.minimum(20 * np.abs(x[:, 1]) + 0.1 * np.abs(x[:, 0]), falls)

    (end,) = dense_look.rest_points(valleys, np.zeros((1, 2)), 0.01)
    assert end == pytest.approx(0.5 * out, abs=1e-4)


def test_groups_are_chained_axis_by_axis():
    points = np.array([[0.0, 0.0], [0.9, 0.0], [1.8, 0.1], [1.8, 0.4]])
    assert dense_look.groups_within(points, np.array([1.0, 0.2])).tolist() == [0, 0, 0, 1]
    assert dense_look.groups_within(points[:0], SQUARE).tolist() == []


@pytest.mark.parametrize(
    ("inside", "group", "missed"),
    [
        ([[1, 1, 0]], [0, 1, 2], [1, 2]),  # stands for the widest in it
        ([[1, 1, 0]], [0, 0, 1], [1]),
        ([[1, 1, 0], [1, 0, 0]], [0, 1, 2], [2]),  # two attractors side by side: one each
        ([[0, 0, 0]], [0, 1, 2], [0, 1, 2]),
        ([], [0], [0]),
    ],
)
def test_an_attractor_stands_for_one_minimum(inside, group, missed):
    group = np.array(group)
    inside = np.array(inside, dtype=bool).reshape(len(inside), len(group))
    widths = [0.5, 0.3, 0.1][: len(set(group))]
    assert reliability.not_told(inside, group, widths) == missed


# ----------------------------------------------------------------- populations


@pytest.mark.parametrize("population", ["a", "b", "d"])
def test_functions_depend_on_their_number_and_have_the_gradient_they_say(population):
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    first, again, other = (populations.landscape(population, k) for k in (3, 3, 4))
    x = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    assert (first.values(x) == again.values(x)).all()
    assert (first.values(x) != other.values(x)).all()
    h = 1e-6
    slope = [(first.values(x + h * e) - first.values(x - h * e)) / (2 * h) for e in np.eye(2)]
    assert first.gradient(x) == pytest.approx(np.stack(slope, 1), abs=1e-6)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_holes_are_what_they_say():
    drawn = [populations.landscape("a", k).facts for k in range(100)]
    widths, depths = (np.array([facts[key] for facts in drawn]) for key in ("width", "depth"))
    assert 0.03 <= widths.min() < 0.035
    assert 0.4 < widths.max() <= 0.5
    assert 0.3 <= depths.min() < depths.max() <= 2
    # Half of them are narrower than the geometric mean of the ends.
    assert 30 < (widths < 0.015**0.5).sum() < 70


@pytest.mark.parametrize("number", range(4))
def test_slices_have_the_gradient_of_their_network(number):
    landscape = populations.network_slice(number, n_digits=24, steps=12)
    assert landscape.facts["activation"] == populations.NETWORKS[number]
    x = landscape.half * np.random.default_rng(0).uniform(-1, 1, (3, 2))
    h = 1e-6 * landscape.half
    slope = [
        (landscape.values(x + e) - landscape.values(x - e)) / (2 * e.max()) for e in np.diag(h)
    ]
    assert landscape.gradient(x) == pytest.approx(np.stack(slope, 1), rel=1e-4, abs=1e-6)


def test_batch_norm_is_that_of_torch():
    digits = populations.NormedDigits.subset(24)
    flat, path = digits.train("batch norm", 0, 12)
    w1, b1, w2, b2 = populations.layers(flat)
    norm = torch.nn.BatchNorm1d(32, affine=False, dtype=torch.float64)
    hidden = norm(digits.images @ w1.T + b1).relu()
    fit = torch.nn.functional.cross_entropy(hidden @ w2.T + b2, digits.labels)
    expected = fit + populations.WEIGHT_DECAY * flat.square().sum()
    assert digits.losses(flat[None]).item() == pytest.approx(expected.item())
    assert digits.losses(path)[0] > digits.losses(flat[None])[0]


# ------------------------------------------------------------------------ flow


def test_two_integrators_agree_where_flows_end():
    landscape = populations.of_formula(holed, kinked=False, finest=0.1, dense=0, facts={})
    starts = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    starts[0] = [0.6, -0.3]
    orbits = reliability.follow(
        landscape.gradient, starts, -SQUARE, SQUARE, lambda x: np.full_like(x, 0.02)
    )
    for start, end in zip(starts, orbits.ends, strict=True):
        found, fate = reliability.end_of_flow(landscape.gradient, start, SQUARE)
        assert fate == "settled"
        assert found == pytest.approx(end, abs=0.01)
    assert np.linalg.norm(orbits.ends - [0.495, -0.396], axis=1).min() < 0.01


def test_flows_that_leave_or_do_not_end_are_told_apart(monkeypatch):
    start = np.array([0.2, 0.1])
    _, fate = reliability.end_of_flow(lambda x: np.ones_like(x), start, SQUARE)
    assert fate == "left"
    monkeypatch.setattr(reliability, "_MOST_GRADIENTS", 5)
    _, fate = reliability.end_of_flow(lambda x: 2 * x, start, SQUARE)
    assert fate == "unfinished"


# -------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("claim", "claimed", "minima", "unfounded", "false"),
    [
        ("exactly", 2, 2, 0, False),
        ("exactly", 2, 3, 0, True),
        ("exactly", 2, 1, 0, True),
        ("exactly", 2, 2, 1, True),
        ("exactly", 0, 0, 0, False),
        ("exactly", 0, 1, 0, True),
        ("at least", 2, 3, 0, False),
        ("at least", 2, 2, 0, False),
        ("at least", 2, 1, 0, True),
        ("at least", 2, 3, 1, True),
        ("none", 2, 1, 1, False),
    ],
)
def test_a_claim_is_false_if_the_minima_say_so(claim, claimed, minima, unfounded, false):
    assert row(claim, claimed, minima, unfounded=unfounded).is_false is false


def test_attractors_narrower_than_finest_need_not_be_found():
    missed = {"widths": [0.6, 0.05], "missed": [0.05]}
    one_of_two = row("exactly", 1, 2, **missed)
    assert one_of_two.is_false
    assert one_of_two.is_false_of_wide
    assert not one_of_two.has_wide_wells_only
    narrow = dataclasses.replace(one_of_two, finest=0.08)
    assert narrow.is_false
    assert not narrow.is_false_of_wide
    assert not narrow.has_wide_wells_only
    wide = dataclasses.replace(one_of_two, finest=0.04)
    assert wide.is_false_of_wide
    assert wide.has_wide_wells_only


class Known:
    """What the analyses of these tests see."""

    def __init__(self, loss):
        self.of = populations.of_formula(loss, kinked=False, finest=0.1, dense=201, facts={})

    def __call__(self, population, number, seed):
        return self.of


def as_it_is(result):
    return result


def one_too_few(result):
    """The second attractor is said to be none."""
    sets = list(result.morse_sets)
    sets[1] = dataclasses.replace(sets[1], is_attractor=False)
    return dataclasses.replace(result, morse_sets=tuple(sets))


def elsewhere(result):
    """The first attractor is said to be in a corner."""
    moved = dataclasses.replace(result.morse_sets[0], cells=np.array([0]))
    return dataclasses.replace(result, morse_sets=(moved, *result.morse_sets[1:]))


def swapped(result):
    """Each basin is said to be that of the other."""
    first, second = result.attractors
    labels = result.labels.copy()
    labels[result.labels == first], labels[result.labels == second] = second, first
    return dataclasses.replace(result, labels=labels)


@pytest.mark.parametrize(
    ("falsify", "false", "labels"),
    [
        (as_it_is, False, False),
        (one_too_few, True, False),
        (elsewhere, True, True),
        (swapped, False, True),
    ],
)
def test_false_claims_and_labels_are_noticed(monkeypatch, falsify, false, labels):
    wells = Known(lambda x: (x[:, 0].square() - 0.25).square() + x[:, 1].square())
    monkeypatch.setattr(reliability, "landscape", wells)
    reliability.truth_about.cache_clear()
    analyze = reliability.lm.analyze
    monkeypatch.setattr(reliability.lm, "analyze", lambda *a, **k: falsify(analyze(*a, **k)))
    judged = reliability.judge(Task("a", 0, 96, 32), n_labels=16)
    assert (judged.claim, judged.minima, judged.followed) == ("exactly", 2, 16)
    assert judged.unfinished == 0
    assert judged.widths == pytest.approx([0.2, 0.2], abs=0.05)
    assert judged.is_false is false
    assert (judged.false_labels > 0) is labels
    reliability.truth_about.cache_clear()


def test_what_today_has_no_name_for_is_taken_from_mu():
    class Result:
        mu, n_unresolved, n_attractors, samples = 0.9, 0, 2, np.zeros((70, 2))

    claim = reliability.claim_of(Result())
    assert claim["mu_model"] == 0.9
    assert math.isnan(claim.pop("finest"))
    assert (claim["claim"], claim["claimed"], claim["evaluations"]) == ("exactly", 2, 70)
    Result.mu_model, Result.finest, Result.n_unresolved = 0.999, 0.08, 1
    claim = reliability.claim_of(Result())
    assert (claim["claim"], claim["mu"], claim["mu_model"]) == ("at least", 0.9, 0.999)
    assert claim["finest"] == 0.08
    Result.mu = 0.0
    assert reliability.claim_of(Result())["claim"] == "none"


# ---------------------------------------------------------------------- tables


def cells(text, start):
    """The cells of the lines that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_counts_false_claims_above_each_threshold():
    rows = [row(mu=0.97, number=k) for k in range(40)]
    rows += [row(mu=0.97, minima=2, number=k) for k in range(40, 44)]
    rows += [row(mu=0.6, minima=2, number=44), row("none", 0, 2, mu=0.0, number=45)]
    found = {
        m: (false, keeps) for _, m, false, keeps in cells(reliability.table(rows), "| (a) holes |")
    }
    assert found["0.5"] == ("5 of 45: 11.11% (3.71% to 24.05%)", "yes")
    assert found["0.95"] == ("4 of 44: 9.09% (2.53% to 21.67%)", "yes")
    assert found["0.98"] == ("none", "yes")
    # With more of the same the interval no longer reaches 1 - m.
    text = reliability.table(4 * rows)
    assert [c[3] for c in cells(text, "| (a) holes | 0.95")] == ["**no**"]
    assert [c[3] for c in cells(text, "| (a) holes | 0.8")] == ["yes"]


def test_parts_for_basins_wider_than_finest_leave_out_what_is_unknown():
    narrow = {"widths": [0.6, 0.05], "missed": [0.05]}
    rows = [row(minima=2, finest=0.08, **narrow), row(minima=2, **narrow)]
    rows += [row(finest=0.08, widths=[1.0]), row(minima=2, finest=0.04, **narrow)]
    of = {name: [false for _, false in judged] for name, judged in reliability.parts(rows)}
    assert of == {
        "(a) holes": [True, True, False, True],
        "(a) holes, no well narrower than finest": [False, True],
        "(a) holes, attractors wider than finest": [False, False, True],
    }


def test_the_summary_says_how_sure_false_claims_were():
    rows = [row(minima=2, mu=0.9, mu_model=1 - 10.0**-k, number=k) for k in (3, 5, 7)]
    rows += [row("at least", evaluations=70, followed=10, false_labels=1), row("none", mu=0.0)]
    text = reliability.report(rows)
    (line,) = cells(text, "| (a) holes | 128")
    of = dict(zip(("population", "samples", *reliability.HEADS), line, strict=True))
    assert (of["functions"], of["exactly"], of["at least"], of["none"]) == ("5", "3", "1", "1")
    assert of["false claims"] == "3"
    assert float(of["their 1 - mu_model: median"]) == pytest.approx(1e-5)
    assert float(of["their 1 - mu: median"]) == pytest.approx(0.1)
    assert of["exactly, mu >= 0.95"].startswith("0 of 5")
    assert of["false labels / followed"] == "1 / 10"
    assert "False labels: 1 of 10: 10.00%" in text
    # The bound given the model has a table of its own.
    assert text.count("| claims | mu at least") == text.count("| claims | mu_model at least") == 1


def test_intervals_are_those_of_clopper_and_pearson():
    assert reliability.interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert reliability.interval(3, 10) == pytest.approx((0.0667, 0.6525), abs=1e-4)


def test_each_claim_is_in_one_class_of_the_diagram(tmp_path):
    judged = [(row(mu=mu), false) for mu, false in ((1.0, True), (1 - 1e-9, False), (0.97, True))]
    found = reliability.classes([*judged, (row("none", mu=0.0), False)], "mu")
    assert [(hits, trials) for _, hits, trials in found] == [(1, 2), (1, 1)]
    assert found[1][0] == pytest.approx(0.03)
    reliability.diagram([r for r, _ in judged], tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------ main


def test_rows_are_made_once(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    common = ["--resolution", "16", "--labels", "4", "--samples", "32", "--rows", str(path)]
    first = reliability.main(["--population", "a", "--n", "1", *common])
    judge, made = reliability.judge, []

    def counted(task, n_labels):
        made.append(task.number)
        return judge(task, n_labels)

    monkeypatch.setattr(reliability, "judge", counted)
    both = reliability.main(["--population", "a", "--n", "2", *common])
    assert made == [1]
    assert [r.task.number for r in both] == [0, 1]
    assert both[0].widths == first[0].widths
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2
    capsys.readouterr()
    assert len(reliability.main(["--table", *common])) == 2
    assert made == [1]
    assert "| (a) holes | 32 | 2 |" in capsys.readouterr().out

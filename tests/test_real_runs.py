"""The truth that the benchmark of ordinary trainings holds labels against, and its table."""

import dataclasses

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace
from tests.benchmark_files import load

true_flow = load("true_flow")
slice_slope = load("slice_slope")
ordinary_runs = load("ordinary_runs")
other_runs = load("other_runs")


@pytest.fixture(scope="module")
def real_runs():
    return load("real_runs")


# ----------------------------------------------------------------------- flow

LOWER, UPPER = np.array([-2.0, -1.0]), np.array([2.0, 1.0])


def cells(points):
    return np.tile((UPPER - LOWER) / 128, (len(points), 1))


def two_wells(x):
    """Gradient of ``(x^2 - 1)^2 / 4 + 50 y^2``, steep across its valley."""
    return np.stack([x[:, 0] * (x[:, 0] ** 2 - 1), 100 * x[:, 1]], axis=1)


def starts(n, seed=0):
    return np.random.default_rng(seed).uniform(LOWER, UPPER, (n, 2))


@pytest.mark.parametrize("funnels", [True, False])
def test_orbits_end_in_their_well(funnels):
    points = starts(40)
    found = true_flow.follow(two_wells, points, LOWER, UPPER, cells, funnels=funnels)
    assert set(found.fates) == {"settled"}
    assert found.ends[:, 0] == pytest.approx(np.sign(points[:, 0]), abs=0.04)
    assert found.ends[:, 1] == pytest.approx(np.zeros(40), abs=0.04)


def test_funnels_spare_gradients_and_change_no_end():
    counts = []
    for funnels in (True, False):
        seen = []

        def counted(x, seen=seen):
            seen.append(len(x))
            return two_wells(x)

        true_flow.follow(counted, starts(40), LOWER, UPPER, cells, funnels=funnels)
        counts.append(sum(seen))
    assert counts[0] < counts[1]


def test_a_funnel_does_not_reach_over_a_ridge():
    """Two wells four cells apart: points beyond the ridge belong to the other one."""
    apart = 2 * (UPPER - LOWER)[0] / 128

    def gradient(x):
        u = x[:, 0] / apart
        return np.stack([u * (u**2 - 1), 5 * x[:, 1] / apart], axis=1)

    points = starts(60)
    found = true_flow.follow(gradient, points, LOWER, UPPER, cells)
    assert set(found.fates) == {"settled"}
    assert found.ends[:, 0] == pytest.approx(apart * np.sign(points[:, 0]), abs=0.3 * apart)


def test_stiffness_takes_few_steps():
    def gradient(x):
        return x * np.array([1.0, 1e5])

    found = true_flow.follow(gradient, starts(20), LOWER, UPPER, cells, funnels=False)
    assert set(found.fates) == {"settled"}
    assert found.steps.max() < 60
    assert np.abs(found.ends).max() < 0.1


def test_orbits_leave_and_may_not_end():
    def slope(x):
        return np.tile([-1.0, 0.0], (len(x), 1))

    found = true_flow.follow(slope, starts(10), LOWER, UPPER, cells)
    assert set(found.fates) == {"left"}
    assert (found.ends[:, 0] > UPPER[0]).all()
    few = true_flow.follow(slope, starts(10), LOWER, UPPER, cells, most_steps=1)
    assert "unfinished" in few.fates
    broken = true_flow.follow(lambda x: np.full_like(x, np.nan), starts(3), LOWER, UPPER, cells)
    assert set(broken.fates) == {"unfinished"}
    assert not len(true_flow.follow(slope, starts(0), LOWER, UPPER, cells).fates)


def test_orbits_rest_on_a_kink():
    def gradient(x):
        return np.stack([np.sign(x[:, 0] - 0.3), x[:, 1]], axis=1)

    found = true_flow.follow(gradient, starts(10), LOWER, UPPER, cells)
    settled = found.fates == "settled"
    assert not (found.fates == "left").any()
    assert found.ends[settled, 0] == pytest.approx(np.full(settled.sum(), 0.3), abs=0.1)


def test_steps_follow_the_cells_around_them():
    """A well inside a finer box, narrower than a coarse cell."""
    width = 0.002

    def gradient(x):
        gap = x - np.array([0.51, 0.0])
        inside = np.exp(-(gap**2).sum(1, keepdims=True) / (2 * width**2))
        return x * np.array([0.1, 0.1]) - np.array([0.1, 0.0]) + 200 * gap * inside

    def unit(points):
        fine = (np.abs(points - np.array([0.5, 0.0])) < 0.05).all(axis=1)
        return np.where(fine[:, None], cells(points) / 64, cells(points))

    points = np.array([[0.3, 0.0], [0.505, 0.0], [0.9, 0.3]])
    found = true_flow.follow(gradient, points, LOWER, UPPER, unit)
    assert found.fates.tolist() == ["settled"] * 3
    assert found.ends[0, 0] == pytest.approx(0.51, abs=0.002)
    assert found.ends[2, 0] == pytest.approx(1.0, abs=0.05)


# -------------------------------------------------------------------- lattice


def test_descent_on_a_lattice():
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")
    spacing = np.array([0.1, 0.1])
    bowl = (x - 0.3) ** 2 + y**2
    assert true_flow.lattice_minimum(bowl, (2, 5), spacing) == (13, 10)
    assert true_flow.lattice_minimum(bowl + 3 * x, (10, 10), spacing) is None
    bowl[0] = np.nan
    assert true_flow.lattice_minimum(bowl, (1, 5), spacing) == (13, 10)


# ---------------------------------------------------------------------- slope


def slice_of(name, seed=0):
    run = ordinary_runs.RUNS[name]
    torch.manual_seed(seed)
    module = ordinary_runs.Module(run).double()
    inputs, targets = (a.double() if a.is_floating_point() else a for a in run.data())
    batches = [[inputs[i : i + 16], targets[i : i + 16]] for i in (0, 16)]
    weights = flat_parameters(module)
    directions = torch.randn(len(weights), 2, dtype=torch.float64)
    columns = orthonormal_columns(directions).to(weights)
    return LossSlice(module, AffineSubspace(weights, columns), batches, failing="nan")


@pytest.mark.parametrize("name", ordinary_runs.RUNS)
def test_gradients_are_those_of_the_loss_on_the_slice(name):
    loss = slice_of(name)
    slope = slice_slope.Slope(loss)
    points = starts(18, seed=1)  # more than a chunk
    gradients = slope(points)
    assert slope.count == 18
    expected = loss(torch.from_numpy(points)).numpy()
    assert slope.losses(points) == pytest.approx(expected, rel=1e-9)
    apart = 1e-7
    ahead, behind = (
        np.stack([loss(torch.from_numpy(points + s * apart * e)) for e in np.eye(2)], axis=1)
        for s in (1, -1)
    )
    differences = (ahead - behind) / (2 * apart)
    size = np.abs(differences).max()
    assert gradients / size == pytest.approx(differences / size, abs=1e-4)


@pytest.mark.parametrize("name", other_runs.OTHER)
def test_other_runs_can_be_trained(name):
    run = other_runs.OTHER[name]
    torch.manual_seed(0)
    module = ordinary_runs.Module(run)
    inputs, targets = (values[: run.batch] for values in run.data())
    loss = run.loss(module.net(inputs), targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    module.configure_optimizers().step()
    assert run.loss(module.net(inputs), targets) != loss


def test_networks_are_evaluated_together_where_that_agrees():
    """Batch statistics write to buffers, which vmap refuses: these go one by one."""
    together = {name: slice_slope.Slope(slice_of(name)).together for name in ordinary_runs.RUNS}
    assert [name for name, how in together.items() if not how] == ["resnet_sgd"]


# --------------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def wells():
    """An analysis of the two wells."""

    def loss(x):
        return (x[:, 0] ** 2 - 1).square() / 4 + 50 * x[:, 1].square()

    return lm.analyze(loss, LOWER, UPPER, n_samples=64, resolution=48)


def test_true_labels_are_not_called_wrong(real_runs, wells):
    points, labels = real_runs.labelled_points(
        wells, np.array([0.9, 0.1]), np.array([1.0, 0.5]), 30, np.random.default_rng(0)
    )
    assert len(points) == 30
    assert points[0].tolist() == [0.9, 0.1]
    assert set(labels) == {0, 1}
    ends, fates = real_runs.followed(two_wells, wells, points, labels)
    assert not real_runs.wrong_labels(wells, labels, ends, fates).any()


def test_false_labels_are_called_wrong(real_runs, wells):
    """Basins swapped, escapes that rest, and a basin that leaves."""
    swapped = np.array([1, 0, -1, -2])[wells.labels].astype(np.int32)
    points = np.array([[0.9, 0.1], [-0.9, 0.1], [0.6, -0.3]])

    def tilted(x):
        return two_wells(x) + np.array([9.0, 0.0])

    for result, field in (
        (dataclasses.replace(wells, labels=swapped), two_wells),
        (dataclasses.replace(wells, labels=np.full_like(wells.labels, -2)), two_wells),
        (wells, tilted),
    ):
        labels = result.basin_of(points)
        ends, fates = real_runs.followed(field, result, points, labels)
        assert real_runs.wrong_labels(result, labels, ends, fates).all()


# ---------------------------------------------------------------------- table


def row(**facts):
    given = {"run": "a", "seed": 0, "epoch": 1, "epochs": 4, "verdict": "basin", "failed": 0.0}
    return {**given, "evaluations": 128, "followed": 50, "wrong": 0, "unfinished": 0, **facts}


def test_the_table_counts(real_runs, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        row(verdict="undecided"),
        row(epoch=1),  # made again: this one counts
        row(epoch=2, verdict="undecided", evaluations=100),
        row(epoch=3, verdict="descends", shows_attractor=True, wrong=2),
        row(epoch=4, verdict="undecided", unfinished=10, evaluations=300),
    ]
    file.write_text("".join(f"{real_runs.json.dumps(each)}\n" for each in rows))
    assert len(real_runs.main(["--table", str(file)])) == 4
    lines = real_runs.table(real_runs.read(file)).splitlines()
    cells_of = [c.strip() for c in lines[2].split("|")[1:-1]]
    assert cells_of[:11] == [
        *("a", "1 of 2", "1 of 2", "0", "1", "2 / 200", "10", "1", "1", "128", "300")
    ]
    assert len(cells_of) == lines[0].count("|") - 1
    text = "\n".join(lines)
    assert "answered in the second half: 1 of 2: 50.0% (1.3% to 98.7%)" in text
    assert "wrong labels among flows that ended: 2 of 190" in text
    assert "with an attractor in the dense look: 1 of 1" in text


@pytest.mark.slow
def test_a_run_gives_a_row_an_analysis(real_runs, tmp_path):
    out = tmp_path / "rows.jsonl"
    what = ["--runs", "huber_adam", "--seeds", "0", "--epochs", "2", "--every", "1"]
    rows = real_runs.main([*what, "--truth", "6", "--out", str(out)])
    assert [each["epoch"] for each in rows] == [1, 2]
    assert real_runs.read(out) == rows
    for each in rows:
        assert each["verdict"] in ("basin", "descends", "undecided")
        assert each["evaluations"] > 16
        assert each["wrong"] + each["unfinished"] <= each["followed"] <= 6
        assert np.array(each["faces"]).shape == (2, 2)

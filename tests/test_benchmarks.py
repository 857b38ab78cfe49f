"""The benchmarks, each in a tiny configuration, so that they keep up with what they measure."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.conley.reach import UNDECIDED
from tests.benchmark_files import BENCHMARKS, load
from tests.browser import find_browser
from tests.callback_models import fit, monitor


@pytest.fixture(scope="module")
def coverage():
    return load("coverage")


@pytest.fixture(scope="module")
def real_slices():
    return load("real_slices")


def test_coverage_prints_a_row_a_surrogate_and_level(coverage, capsys):
    rows = coverage.main(["--draws", "3", "--lengthscales", "0.5", "--resolution", "16"])
    assert len(rows) == 2 * 2 * 3 * 3
    assert all(0 <= row["hits"] <= row["trials"] <= 3 for row in rows)
    given = [row for row in rows if row["kind"] == "given" and row["level"] == 0.95]
    assert all(row["hits"] == row["trials"] == 3 for row in given)
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert {line.count("|") for line in table} == {table[0].count("|")}


def test_draws_have_the_covariance_of_the_kernel(coverage):
    """Values at the samples, values and slopes on the lattice, all of the same draw."""
    kernel = coverage.KERNELS["5/2"]
    samples, axis, scale = np.array([[0.2, 0.7]]), np.array([0.1, 0.5]), 0.4
    prior = coverage.Prior(kernel, samples, [axis, axis], scale)
    rng = np.random.default_rng(0)
    draws = [prior.draw(rng) for _ in range(4_000)]
    found = np.array(
        [
            [s[0], values[1, 0], gradient[0, 1, 0], gradient[0, 1, 1]]
            for s, values, gradient in draws
        ]
    )
    points = [(samples[0], (0, 0)), (axis[[1, 0]], (0, 0)), (axis, (1, 0)), (axis, (0, 1))]

    def covariance(p, q):
        (a, m), (b, n) = p, q
        return math.prod(
            (-1) ** n[j] * kernel.derivative(a[j, None], b[j, None], scale, m[j] + n[j])[0, 0]
            for j in range(2)
        )

    expected = np.array([[covariance(p, q) for q in points] for p in points])
    size = np.sqrt(np.diag(expected))
    assert np.cov(found.T) / np.outer(size, size) == pytest.approx(
        expected / np.outer(size, size), abs=0.08
    )


def test_gradients_of_draws_are_their_derivatives(coverage):
    axis = np.linspace(0, 1, 401)
    prior = coverage.Prior(coverage.KERNELS["7/2"], np.array([[0.5]]), [axis], 0.5)
    at_sample, values, gradient = prior.draw(np.random.default_rng(0))
    assert at_sample[0] == pytest.approx(values[200], abs=1e-6)
    assert np.gradient(values, axis)[1:-1] == pytest.approx(gradient[1:-1, 0], abs=1e-3)


def test_a_point_on_a_face_lies_in_the_band_of_both_cells(coverage):
    grid = coverage.CubicalGrid([0.0], [1.0], (3,))
    lattice = coverage.Lattice(grid, (1,))
    radius = coverage.radius_at_points(np.array([[3.0], [1.0], [2.0]]), lattice, finer=2)
    assert radius[:, 0].tolist() == [3, 3, 1, 1, 1, 2, 2]


def test_intervals_are_those_of_clopper_and_pearson(coverage, real_slices):
    """Upper end without hits: ``1 - 0.025 ** (1 / n)``."""
    for module in (coverage, real_slices):
        assert module.interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
        assert module.interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
        low, high = module.interval(3, 10)
        assert (low, high) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))


@pytest.mark.slow
def test_real_slices_judges_each_kind(real_slices, capsys):
    tiny = ["--seeds", "1", "--samples", "32", "--resolution", "32", "--digits", "32"]
    rows = real_slices.main([*tiny, "--steps", "40", "--starts", "20", "--activations", "relu"])
    assert [row["kind"] for row in rows] == list(real_slices.KINDS)
    assert not any(row.get("wrong") for row in rows)
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert {line.count("|") for line in table} == {table[0].count("|")}


def as_it_is(result):
    return result


def as_an_escape(result):
    """What is in the basin is said to leave the box."""
    return dataclasses.replace(result, labels=np.where(result.labels == 0, -2, result.labels))


def elsewhere(result):
    """The attractor is said to be in a corner."""
    moved = dataclasses.replace(result.morse_sets[0], cells=np.array([0]))
    return dataclasses.replace(result, morse_sets=(moved, *result.morse_sets[1:]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("falsify", "labels", "count"),
    [(as_it_is, False, False), (as_an_escape, True, False), (elsewhere, True, True)],
)
def test_false_claims_are_noticed(real_slices, monkeypatch, falsify, labels, count):
    digits = real_slices.Digits.subset(32)
    network = real_slices.make_slice(digits, "pca", "tanh", seed=0, steps=200)
    analyze = real_slices.lm.analyze
    monkeypatch.setattr(real_slices.lm, "analyze", lambda *a, **k: falsify(analyze(*a, **k)))
    row = real_slices.judge(network, n_samples=128, resolution=48, n_starts=20, seed=0)
    assert row["claimed"] == row["flows"] == 1
    assert row["unsettled"] == 0
    assert (row["wrong labels"] > 0, row["wrong count"]) == (labels, count)
    assert row["wrong"] == (labels or count)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_the_exact_gradient_is_that_of_the_network(real_slices, activation):
    digits = real_slices.Digits.subset(16)
    network = real_slices.make_slice(digits, "solutions", activation, seed=0, steps=10)
    x = torch.tensor([[0.3, -0.2], [-1.0, 2.0]], dtype=torch.float64)
    modules = {"tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "relu": torch.nn.ReLU}

    def reference(point):
        flat = network.plane.origin + network.plane.directions @ point
        w1, b1, w2, b2 = real_slices.layers(flat)
        logits = modules[activation]()(digits.images @ w1.T + b1) @ w2.T + b2
        fit = torch.nn.functional.cross_entropy(logits, digits.labels)
        return fit + real_slices.WEIGHT_DECAY * flat.square().sum()

    loss, gradient = network.loss_and_gradient(x.numpy())
    assert loss == pytest.approx([reference(p).item() for p in x], rel=1e-12)
    assert network.loss(x).numpy() == pytest.approx(loss, rel=1e-12)
    expected = torch.stack([torch.func.grad(reference)(p) for p in x])
    assert gradient == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12)


def test_flows_end_where_a_double_well_sends_them(real_slices):
    """Wells at 2 and 6 on the first axis with a ridge at 4; downhill and out on the second."""

    def velocity(u):
        return np.stack([-(u[:, 0] - 2) * (u[:, 0] - 4) * (u[:, 0] - 6), 50 * (1 - u[:, 1])], 1)

    start = np.array([[3.9, 3.0], [4.1, 0.2], [7.5, 1.0]])
    extent = np.array([8.0, 8.0])
    ends, status = real_slices.flow(velocity, start, extent, 1e-6, 2000)
    assert status.tolist() == [0, 0, 0]
    assert ends == pytest.approx(np.array([[2, 1], [6, 1], [6, 1]]), abs=1e-4)

    ends, status = real_slices.flow(lambda u: np.ones_like(u), start, extent, 1e-6, 2000)
    assert status.tolist() == [1, 1, 1]


def test_groups_of_ends_are_chained_by_their_distance(real_slices):
    points = np.array([[0.0, 0.0], [1.5, 0.0], [3.0, 1.0], [9.0, 9.0]])
    assert real_slices._groups(points, 2.0) == 2
    assert real_slices._groups(points[:0], 2.0) == 0


def test_bench_analyze_loads():
    assert load("bench_analyze").RESOLUTIONS


def test_bench_engine_prints_a_row_a_map_and_one_for_the_process(capsys):
    bench = load("bench_engine")
    rows = bench.main(["--repeats", "1", "--cells", "6", "8", "--process-cells", "6"])
    assert len(rows) == 2 * len(bench.CASES) + 1
    assert all(row["Morse sets"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(row["bytes per edge"] > 5 for row in rows[:-1])
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert {line.count("|") for line in table} == {table[0].count("|")}


def test_no_time_counts_if_the_graphs_differ(monkeypatch):
    bench = load("bench_engine")
    case, graph = bench.CASES["Van der Pol"], bench.graph_of_ours

    def one_cell_short(found):
        sets, order = graph(found)
        largest = max(sets, key=len)
        return {*(sets - {largest}), largest - {min(largest)}}, order

    for falsify in (one_cell_short, lambda found: (graph(found)[0], {(0, 1)})):
        monkeypatch.setattr(bench, "graph_of_ours", falsify)
        with pytest.raises(AssertionError, match="the two Morse graphs differ"):
            bench.compare(case, 10, 1)
        with pytest.raises(AssertionError, match="the two Morse graphs differ"):
            bench.compare_process(bench.process_case(30), 6)


@pytest.mark.slow
def test_whole_processes_are_compared(capsys, monkeypatch):
    bench = load("bench_monitor")
    apart = bench.in_a_process

    def here_or_apart(name, epochs, watched):
        """The run that tells how long an epoch takes is not compared: it needs no process."""
        run = bench.run_whole if epochs == bench._TRIED_EPOCHS else apart
        return run(name, epochs, watched)

    monkeypatch.setattr(bench, "in_a_process", here_or_apart)
    found = bench.main(["--whole", "mlp", "--pairs", "1", "--scale", "0.1"])["mlp"]
    assert found["watched"] > 0 < found["bare"]
    assert found["last_is_final"] == (found["analyses"] > 0)
    verdict = "holds" if found["excess"] <= 2 else "DOES NOT HOLD"
    assert f"{found['excess']:.2f} s beyond 1.05 times: {verdict}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_monitor_prints_shares_and_ratios(capsys, monkeypatch):
    bench = load("bench_monitor")
    short = {"n_samples": 16, "resolution": 8, "probe_batches": 1, "grace": 20.0}
    timed = bench.Timed
    monkeypatch.setattr(bench, "Timed", lambda: timed(**short))
    found = bench.main(["--seconds", "0.5", "--repeats", "1"])
    assert set(found["overhead"]) == {"digits", "cnn"}
    assert all(facts["analyses"] >= 1 for facts in found["overhead"].values())
    assert all(0 < facts["overhead_reported"] < 1 for facts in found["overhead"].values())
    assert all(facts["overhead_hooks"] > 0 for facts in found["overhead"].values())
    assert all(facts["ratio"] > 0 for facts in found["evaluation"].values())
    lines = capsys.readouterr().out.splitlines()
    for net, facts in found["overhead"].items():
        share = facts["overhead_hooks"]
        most = 0.06 + 2 / facts["seconds_bare"]
        verdict = "holds" if share <= most else "DOES NOT HOLD"
        assert f"overhead, {net}: {share:.3f}: {verdict}" in lines
    for net, facts in found["evaluation"].items():
        verdict = "holds" if facts["ratio"] <= 1.15 else "DOES NOT HOLD"
        assert f"evaluation, {net}: {facts['ratio']:.3f} of a forward pass: {verdict}" in lines


@pytest.mark.slow
def test_samples_of_short_runs_are_counted_and_no_analysis_fails_of_it(tmp_path):
    watch = monitor(n_samples=16, resolution=8)
    with load("short_runs").evaluations_counted() as counts:
        fit(tmp_path, watch, max_epochs=2)
    assert len(counts) == len(watch.history) == 2
    assert min(counts) >= 16
    assert not any(row["morse/failed"] for row in watch.history)


@pytest.mark.slow
def test_short_runs_say_what_is_seen(capsys):
    (row,) = load("short_runs").main(["--runs", "diabetes_adam", "--seconds", "1"])
    assert row["epochs"] >= 4
    assert row["with"] > 0
    assert all(n > 0 for _, n, _ in row["analyses"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith(f"| diabetes_adam | 0 | {row['epochs']} | ")
    ends = ["analysed at the end", "answered at the end", "with a picture"]
    assert [line.partition(":")[0] for line in printed[-3:]] == ends


@pytest.mark.slow
def test_bench_hooks_prints_a_row_a_network_and_callback(capsys):
    threads = torch.get_num_threads()
    try:
        load("bench_hooks").main(["--epochs", "6"])
    finally:
        torch.set_num_threads(threads)
    rows = capsys.readouterr().out.splitlines()
    names = [row.partition(":")[0] for row in rows]
    nets = ("digits", "mlp", "cnn")
    assert names == [f"{n}, {c}" for n in nets for c in ("Callback", "MorseMonitor")]
    counted = [int(row.split("; ")[1].split()[0]) for row in rows]
    assert counted[::2] == [0, 0, 0]
    assert all(micro > 0 for micro in counted[1::2])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="reads /proc, as Linux has it")
def test_bench_painter_says_what_a_process_had(capsys, monkeypatch):
    bench = load("bench_painter")
    monkeypatch.setattr(bench, "LONGEST_SECONDS", 10.0)
    threads = torch.get_num_threads()
    try:
        row = bench.measured("mlp", 1, "niceness", 6)
    finally:
        torch.set_num_threads(threads)
    assert row.startswith("mlp, 1 threads, niceness: epochs ")
    # It takes only what is idle: next to nothing where all cores are busy.
    assert 0 <= float(row.split("had ")[1].split()[0]) <= 1.1


@pytest.mark.slow
def test_bench_sharded_prints_a_row_a_width():
    # Not imported: its processes look their code up by the name of a file.
    script = [sys.executable, BENCHMARKS / "bench_sharded.py"]
    options = ["--widths", "8", "--points", "2", "--repeats", "1"]
    ran = subprocess.run([*script, *options], capture_output=True, text=True, timeout=120)
    expected = r"width 8: \d+\.\d\d of a forward pass of FSDP \(.*\)"
    assert re.search(expected, ran.stdout), ran.stderr[-2000:]


@pytest.fixture
def adaptive(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it takes a map from its neighbour
    yield load("bench_adaptive")
    sys.modules.pop("bench_engine", None)


@pytest.mark.slow
def test_bench_adaptive_prints_a_row_a_case(adaptive, capsys):
    beside, alone = adaptive.main(
        ["--repeats", "1", "--cases", "Himmelblau", "wells 4-D, recurrent"]
    )
    assert beside["attractors"] == "4"
    assert beside["CMGDB's"].endswith(", 0 of ours missing")
    assert (alone["Morse sets"], alone["attractors"], alone["complete"]) == ("81", "16", "True")
    assert int(alone["cells"]) < 20_000
    assert alone["uniform grid"] == "2.8e+14"
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [len(table.splitlines()) for table in tables] == [3, 3]
    assert adaptive.main(["--cases", "Himmelblau", "--skip-cmgdb"]) == []


def test_no_time_of_a_refinement_counts_if_the_morse_sets_differ(adaptive, monkeypatch):
    case = dataclasses.replace(adaptive.CASES["Leslie"], depth=1)
    coarser = dataclasses.replace(case, depth=0)
    monkeypatch.setattr(adaptive, "theirs", lambda _, right=adaptive.theirs: right(coarser))
    with pytest.raises(AssertionError, match="holds a box that is no cell here"):
        adaptive.compare("Leslie", case, 1)
    sets, pairs = adaptive.graph_of_ours(adaptive.ours(case))
    monkeypatch.setattr(adaptive, "graph_of_theirs", lambda *_: (set(list(sets)[1:]), pairs))
    with pytest.raises(AssertionError, match="Leslie: the Morse sets differ"):
        adaptive.compare("Leslie", case, 1)


def test_bench_trajectory_compares_the_same_boxes(capsys, monkeypatch):
    bench = load("bench_trajectory")
    options = ["--pairs", "40", "--depth", "12", "--repeats", "1", "--stride", "64"]
    rows = bench.main(options)
    assert set(rows) == {"bare", "scikit-learn"}
    assert all(row["ratio"] > row["with_fit"] > 0 for row in rows.values())
    assert capsys.readouterr().out.count("| 4096 |") == 2
    # A time does not count if the boxes are others.
    right = bench.cell_by_cell
    monkeypatch.setattr(
        bench, "cell_by_cell", lambda *given: tuple(b + 1e-3 for b in right(*given))
    )
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        bench.main(options)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_optimizer_flow_knows_momentum_from_none(capsys):
    bench = load("optimizer_flow")
    plain, momentum, _ = bench.main(["--epochs", "4", "--resolution", "32"]).values()
    assert plain[-1]["morse/flow_length"] == pytest.approx(1, abs=0.1)
    assert 8 < momentum[-1]["morse/flow_length"] < 10
    assert max(h[-1]["morse/flow_angle"] for h in (plain, momentum)) < 0.2
    assert capsys.readouterr().out.count("\n") == 5


@pytest.mark.usefixtures("no_pictures")
def test_batch_norm_watches_one_run_with_both_statistics(capsys):
    bench = load("batch_norm")
    arguments = ["--epochs", "1", "--every", "1", "--samples", "16"]
    table = bench.main(arguments)
    assert [row["kind"] for row in table] == ["batch", "running"]
    assert table[0]["flow_length"] != table[1]["flow_length"]
    assert capsys.readouterr().out.count("\n") == 4


@pytest.mark.slow
def test_snapshot_claims_counts_what_is_wrong(monkeypatch):
    bench = load("snapshot_claims")
    true = bench.descents("double well", 0.0, 4)
    assert true["claims"] >= 3
    assert true["wrong blocks"] == true["wrong labels"] == 0
    # Held against another flow, the same claims are wrong.
    to_time = bench.time_map

    def pushed(field, tau, steps):
        return to_time(
            field if steps == 8 else lambda z: field(z) + np.array([1.0, 0.0]), tau, steps
        )

    monkeypatch.setattr(bench, "time_map", pushed)
    assert bench.descents("double well", 0.0, 4)["wrong labels"] > 0


@pytest.mark.slow
def test_bench_view_prints_its_figures(capsys, monkeypatch):
    find_browser()
    bench = load("bench_view")
    monkeypatch.setattr(bench, "SETTLING_SECONDS", 1.0)
    options = ["--steps", "3", "--resolution", "32", "--switches", "2"]
    options += ["--runs", "4", "--records", "3"]
    found = bench.main(options)
    assert json.loads(capsys.readouterr().out) == found
    assert (found["steps"], found["cells"]) == (3, 1024)
    assert all(value >= 0 for value in found.values())
    assert (found["list_runs"], found["list_records"]) == (4, 12)


@pytest.mark.slow
def test_many_runs_prints_its_figures(capsys, monkeypatch):
    find_browser()
    bench = load("many_runs")
    monkeypatch.setattr(bench, "SETTLING_SECONDS", 1.0)
    monkeypatch.setattr(bench, "OPENED", 2)
    found = bench.main(["--runs", "5", "--records", "4"])
    assert json.loads(capsys.readouterr().out) == found
    assert (found["runs"], found["records"]) == (5, 4)
    assert all(found[name] > 0 for name in ("index_ms", "tab_first_ms", "tab_ms"))


@pytest.mark.slow
def test_cubes_of_networks_print_a_row_a_slice(capsys):
    options = (
        "--seeds 1 --kinds random --activations tanh --samples 96 --resolution 16 --digits 128"
    )
    (row,) = load("real_cubes").main([*options.split(), "--steps", "100", "--starts", "12"])
    assert 0 < row["ratio"] < 1
    assert row["wrong"] == 0
    assert "1 slices, gradient outside the band on 0" in capsys.readouterr().out


@pytest.mark.slow
def test_labels_of_a_cube_are_disputed_where_they_are_wrong():
    class Bowl:
        """Two wells along the first axis."""

        @staticmethod
        def loss(x):
            return (x[:, 0].square() - 1).square() + x[:, 1:].square().sum(1)

        def loss_and_gradient(self, x):
            y = torch.tensor(x, requires_grad=True)
            loss = self.loss(y)
            return loss.detach().numpy(), torch.autograd.grad(loss.sum(), y)[0].numpy()

    cubes = load("real_cubes")
    result = lm.analyze(Bowl.loss, [-2.0] * 3, [2.0] * 3, n_samples=96, resolution=16)
    first, second = result.attractors
    assert cubes.disputed(Bowl(), result, 40, seed=0) == (40, 0)
    swapped = result.labels.copy()
    swapped[result.labels == first] = second
    wrong = dataclasses.replace(result, labels=swapped)
    # The starts whose label was changed, and no others.
    certain = np.flatnonzero(result.labels != UNDECIDED)
    starts = np.random.default_rng(0).choice(certain, 40)
    n_swapped = int((result.labels[starts] == first).sum())
    assert 0 < n_swapped < 40
    assert cubes.disputed(Bowl(), wrong, 40, seed=0) == (40, n_swapped)


@pytest.mark.slow
def test_local_maps_prints_a_row_a_way(capsys):
    bench = load("local_maps")
    one, local = bench.main(["--pairs", "150"])
    assert (one.local, local.local) == (False, True)
    assert one.pairs == local.pairs == 150
    assert one.leaves == 1
    assert one.wrong == local.wrong == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_the_flow_of_local_maps_has_the_limits_it_says():
    bench = load("local_maps")
    x = np.random.default_rng(0).uniform(-2.5, 2.5, (50, 2))
    x = x[np.abs((x**2).sum(axis=1) - bench.BETWEEN) > 0.2]
    later = x
    for _ in range(60):
        later = bench.rings(later, 2000)
    radius = np.linalg.norm(later, axis=1)
    assert radius == pytest.approx(np.linalg.norm(bench.limit(x), axis=1), abs=1e-6)


@pytest.mark.slow
def test_bench_memory_prints_a_row_a_size(capsys):
    (row,) = load("bench_memory").main(
        ["--weights", "1e5", "--max-memory", "10MB", "--epochs", "2"]
    )
    assert (row["snapshots"], row["slices"]) == (15, 3)
    assert row["kept"] <= 10**7
    assert row["peak"] > row["alone"] > 0
    assert row["failed"] == [0.0, 0.0]
    assert "| 1e+05 | " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_bench_many_analyses_prints_a_row_a_look(capsys):
    rows = load("bench_many_analyses").main(["--looks", "2", "4"])
    assert [n for n, _ in rows] == [2, 4]
    assert all(size > 0 for _, size in rows)
    assert "4 analyses, 0 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_connectivity_prints_a_row_a_setting_and_a_run(capsys):
    bench = load("bench_connectivity")
    short = ["--pairs", "2", "--networks", "tanh", "--runs", "1", "--steps", "20", "60"]
    found = bench.main([*short, "--last", "100", "120", "140"])
    assert [row["networks"] for row in found["bounds"]] == ["tanh", "all"] * 2
    assert all(row["bounds hold"] == row["pairs"] == 2 for row in found["bounds"])
    (run,) = found["averaging"]
    assert run["foreign one caught"] is True
    assert capsys.readouterr().out.count("| tanh |") == 2


def test_bounds_that_do_not_hold_are_counted():
    bench = load("bench_connectivity")
    shares = np.linspace(0, 1, 1001)
    dense = np.sin(np.pi * shares)
    none, profile = np.zeros((2, 2)), types.SimpleNamespace(shares=np.zeros(7))
    off = 1 - np.eye(2)
    for low, high, holds, wrong in (
        (0.9, 1.1, True, False),
        (0.9, 0.95, False, False),
        (1.1, 1.2, False, False),
        (0.0, 0.005, False, True),
    ):
        record = lm.Connectivity(
            ("a", "b"), none[0], low * off, high * off, high * off, 0.01, 0.95, (profile,), 7
        )
        held = bench.held_against(record, dense)
        assert (held.holds, held.wrong) == (holds, wrong)
    assert bench.interval(200, 200)[0] == pytest.approx(0.025 ** (1 / 200))


@pytest.mark.parametrize("more", [[], ["--given"]])
def test_many_scales_holds_claims_and_labels_against_the_function(more, capsys):
    args = ["--functions", "branin", "--seeds", "0", "--samples", "64", "--resolution", "32"]
    load("many_scales").main([*args, "--labels", "5", *more])
    head, _, row = (line.split(" | ") for line in capsys.readouterr().out.strip().splitlines())
    assert len(head) == len(row)
    assert row[:3] == ["| branin", "0", "3"]
    false, followed = map(int, row[9].split(" / "))
    assert false == 0
    assert followed <= 5


def test_the_chain_of_three_prints_what_is_found_beside_what_there_is(capsys):
    result = load("chain_of_three").main(["--samples", "32", "--resolution", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "theory: 5 attractors, 9 critical points"
    assert lines[1] == f"found: {result.claim}, {result.n_morse_sets} Morse sets"
    assert len([line for line in lines if re.match(r"\| [01] \|", line)]) == 9

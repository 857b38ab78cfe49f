"""MorseMonitor in small, real runs: what it reports, and that the run is not affected."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_morse import MorseAnalysis, MorseMonitor
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.monitoring.pace import Decision
from lightning_morse.monitoring.scalars import UNKNOWN as BARE
from lightning_morse.monitoring.scalars import published
from lightning_morse.slices.directions import axis_labels
from lightning_morse.view.record import decode
from tests.callback_models import (
    Net,
    fit,
    loader,
    monitor,
    one_answer,
    one_attractor,
    rng_state,
    stub_analysis,
    trainer,
)

N_WEIGHTS = sum(p.numel() for p in Net().parameters())
STEPS_PER_EPOCH = 6
UNKNOWN = published("morse", BARE)
ONES = torch.ones(N_WEIGHTS)
STEPS = torch.arange(N_WEIGHTS, dtype=torch.float32)


@pytest.fixture
def real():
    """Ask for the real analysis and its pictures."""


@pytest.fixture
def pictures():
    """Ask for the real pictures."""


@pytest.fixture(autouse=True)
def analysis(request, monkeypatch):
    """Most tests use a quick stand-in: what surrounds the analysis is tested here."""
    if "real" not in request.fixturenames:
        stub_analysis(monkeypatch, pictures="pictures" in request.fixturenames)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same_run(a: Net, b: Net) -> None:
    for name, value in weights(a).items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert a.seen == b.seen


# ------------------------------------------------------------------------------- no trace


class Gradients(Callback):
    """Keeps the gradients left behind by the monitor."""

    def on_train_start(self, trainer, pl_module):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen += [p.grad.clone() for p in pl_module.parameters()]


@pytest.mark.slow
def test_run_is_bit_identical_with_and_without(real, tmp_path):
    gradients, bare_gradients = Gradients(), Gradients()
    bare, bare_trainer = fit(tmp_path / "a", bare_gradients)
    bare_rng = rng_state()
    style = dict(mpl.rcParams)
    watch = monitor()
    watched, watched_trainer = fit(tmp_path / "b", watch, gradients)
    assert len(watch.history) == 2
    assert not watch.history[-1]["morse/failed"]
    assert_same_run(bare, watched)
    assert rng_state() == bare_rng
    assert dict(mpl.rcParams) == style
    ours = {k: v for k, v in watched_trainer.callback_metrics.items() if "morse/" not in k}
    assert ours == bare_trainer.callback_metrics
    a, b = (t.optimizers[0].state_dict()["state"] for t in (bare_trainer, watched_trainer))
    assert all(torch.equal(a[i][k], b[i][k]) for i in a for k in a[i])
    for g, h in zip(bare_gradients.seen, gradients.seen, strict=True):
        assert torch.equal(g, h)
    assert [m.training for m in bare.modules()] == [m.training for m in watched.modules()]


def test_metrics_at_hand_during_the_run_are_untouched(tmp_path):
    def rows(root, *callbacks):
        fit(root, *callbacks, logger=CSVLogger(root, version=0))
        table = (root / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
        names = table[0].split(",")
        kept = [i for i, n in enumerate(names) if not n.startswith("morse/")]
        assert len(kept) < len(names) or not callbacks
        cells = [line.split(",") for line in table]
        seen = [tuple((names[i], row[i]) for i in kept) for row in cells[1:]]
        return [
            {k: v for k, v in row if v} for row in seen if any(v for k, v in row if k != "step")
        ]

    assert rows(tmp_path / "a") == rows(tmp_path / "b", monitor())


def test_probe_batches_are_the_first_ones_and_are_copies(tmp_path):
    class Spoils(Net):
        def training_step(self, batch, batch_idx):
            self.first = getattr(self, "first", batch[0].clone())
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            batch[0].zero_()

    watch = monitor()
    module, _ = fit(tmp_path, watch, module=Spoils(), max_epochs=1)
    assert len(watch._run.probe) == 2
    assert torch.equal(watch._run.probe[0][0], module.first)
    assert watch._run.probe[1][0].abs().sum() > 0


@pytest.mark.parametrize("broken", ["raises", "nan", "wrong shape"])
def test_failure_inside_the_loss_ends_nothing(tmp_path, caplog, broken):
    def loss_fn(module, batch):
        torch.rand(3)
        if broken == "raises":
            raise RuntimeError("out of luck")
        return torch.full((), math.nan) if broken == "nan" else torch.zeros(3)

    bare, _ = fit(tmp_path / "a")
    bare_rng = rng_state()
    watch = monitor(loss_fn=loss_fn)
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        watched, watched_trainer = fit(tmp_path / "b", watch)
    assert_same_run(bare, watched)
    assert rng_state() == bare_rng
    metrics = watched_trainer.callback_metrics
    assert metrics["morse/failed"] == 1
    assert all(torch.isfinite(v) for v in metrics.values())
    said = [r.getMessage() for r in caplog.records if "no analysis" in r.getMessage()]
    assert len(said) == 1
    if broken == "raises":
        assert "epoch 1: no analysis, training goes on (RuntimeError: out of luck)" in said[0]


def test_failure_keeps_the_last_good_values(tmp_path):
    class Sometimes:
        broken = False

        def __call__(self, module, batch):
            if self.broken:
                raise RuntimeError("gone")
            return nn.functional.mse_loss(module.net(batch[0]), batch[1])

    loss_fn = Sometimes()

    class Break(MorseMonitor):
        def on_train_epoch_end(self, trainer, pl_module):
            loss_fn.broken = True

    watch = Break(n_samples=24, resolution=24, loss_fn=loss_fn, max_overhead=1.0)
    _, runner = fit(tmp_path, watch)
    good, bad = watch.history
    assert (good["morse/failed"], bad["morse/failed"]) == (0, 1)
    assert bad["morse/mu"] == good["morse/mu"] >= 0.95
    assert runner.callback_metrics["morse/mu"] == pytest.approx(good["morse/mu"])


# ---------------------------------------------------------------------------- what it tells


@pytest.mark.slow
def test_event_file_has_everything_at_each_analysed_epoch(pictures, tmp_path):
    watch = monitor(every_n_epochs=2)
    fit(tmp_path, watch, logger=TensorBoardLogger(tmp_path, name="x", version=0), max_epochs=5)
    events = EventAccumulator(str(tmp_path / "x" / "version_0"), size_guidance={"tensors": 0})
    events.Reload()
    steps = [n * STEPS_PER_EPOCH - 1 for n in (2, 4, 5)]  # and the last weights
    tags = events.Tags()
    for name in UNKNOWN:
        points = events.Scalars(name)
        assert [p.step for p in points] == steps, name
        logged = [row[name] for row in watch.history]
        assert [p.value for p in points] == pytest.approx(logged), name
    # The same steps as Lightning's own values per epoch, so that curves line up.
    assert set(steps) <= {p.step for p in events.Scalars("train_loss_epoch")}
    for name in ("morse/basins", "morse/graph", "morse/merge"):
        assert [p.step for p in events.Images(name)] == steps
        assert events.Images(name)[0].width >= 640
    assert "morse/sets/text_summary" in tags["tensors"]
    assert [p.step for p in events.Tensors("morse/sets/text_summary")] == steps
    assert not list(tmp_path.rglob("*.npz"))
    written = [path.read_bytes() for path in sorted(tmp_path.rglob("*.view.json"))]
    assert [decode(text).step for text in written] == steps
    assert [p.step for p in events.Tensors("morse/record")] == steps
    assert [p.tensor_proto.string_val[0] for p in events.Tensors("morse/record")] == written
    metadata = events.SummaryMetadata("morse/record")
    assert metadata.plugin_data.plugin_name == "morse"
    assert metadata.data_class == 2  # tensors; otherwise the plugin gets nothing


@pytest.mark.usefixtures("no_pictures")
def test_scalars_agree_with_the_analysis(real, tmp_path):
    watch = monitor()
    _, runner = fit(tmp_path, watch)
    metrics = {k: float(v) for k, v in runner.callback_metrics.items()}
    result = watch.result
    assert metrics["morse/attractors"] == result.n_attractors
    assert metrics["morse/unresolved"] == result.n_unresolved
    assert metrics["morse/morse_sets"] == result.n_morse_sets
    assert metrics["morse/mu"] == pytest.approx(result.mu)
    assert metrics["morse/escape"] == pytest.approx(result.escape)
    assert metrics["morse/undecided"] == pytest.approx(result.undecided)
    assert metrics["morse/basin_current"] == result.basin_of([[0.0, 0.0]])[0]
    assert metrics["morse/basin_max"] == pytest.approx(
        max(result.basin_volumes.values(), default=0)
    )
    assert metrics["morse/calibration"] == pytest.approx(result.calibration)
    assert 0 < metrics["morse/explained"] <= 1 + 1e-6
    assert metrics["morse/residual"] > 0
    assert metrics["morse/seconds"] > 0
    assert 0 < metrics["morse/overhead"] < 1
    assert set(UNKNOWN) <= set(metrics)
    # The box is centred on the weights, so the loss there is that of the module.
    module = runner.lightning_module.eval()
    module.net[1].train()
    with torch.no_grad():
        losses = [nn.functional.mse_loss(module.net(x), y) for x, y in watch._run.probe]
    assert result.sample_losses[0] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_basin_headroom_and_barrier_on_a_bowl(real, tmp_path):
    """A loss that is a bowl in the weights: one basin, and headroom is the height above its rim."""

    def bowl(module, batch):
        return sum(p.square().sum() for p in module.parameters())

    watch = monitor(loss_fn=bowl, directions="random", resolution=48, n_samples=64)
    _, runner = fit(tmp_path, watch, max_epochs=1)
    assert runner.callback_metrics["morse/attractors"] == 1
    assert runner.callback_metrics["morse/basin_current"] == 0
    assert runner.callback_metrics["morse/barrier"] == 0  # there is no saddle
    here = float(watch.result.sample_losses[0])
    lowest = watch.result.morse_sets[0].loss
    assert runner.callback_metrics["morse/headroom"] == pytest.approx(here - lowest)
    assert here - lowest > 0
    # The second derivative of a sum of squares is 2 in every direction.
    for name in ("sharpness", "sharpness_attractor"):
        assert 1.5 < runner.callback_metrics[f"morse/{name}"] <= 2
    assert runner.callback_metrics["morse/sharpness_limit"] == 0  # of Adam


def test_current_basin_barrier_and_headroom_are_read_off(tmp_path):
    watch = monitor()
    fit(tmp_path, watch, max_epochs=1)
    (row,) = watch.history
    assert row["morse/basin_current"] == 0
    assert row["morse/barrier"] == 0.375
    assert row["morse/mu_current"] == row["morse/mu_smallest"] == 0.97
    assert row["morse/headroom"] == pytest.approx(watch.result.sample_losses[0] - 0.125)
    assert row["morse/undecided"] == row["morse/escape"] == 1 / 24**2


def test_from_the_second_analysis_on_there_is_a_figure_of_the_run(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    drawn = []
    monkeypatch.setattr(
        "lightning_morse.callbacks._figures.plot_timeline",
        lambda h: drawn.append(h) or Figure(),
    )
    watch = monitor(directions="random")
    fit(tmp_path, watch, max_epochs=3)
    share = watch.result.basin_volumes[0]
    assert [len(h) for h in drawn] == [2, 3]  # including the one being drawn
    for row, last in zip(watch.history, drawn[-1], strict=True):
        assert row["basins"] == last["basins"]
        assert list(row["basins"].values()) == [share]
        assert list(row["basins"]) == [row["morse/identity_current"]]
        assert row["morse/basin_switches"] == 0
    assert set(watch._account.view.identities) == {0}
    assert set(watch.figures()) == {"basins", "graph", "merge", "timeline"}


def test_a_failed_analysis_is_in_the_figure_of_the_run_with_its_reason(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    drawn, calls = [], []

    def sometimes(*args, **options):
        calls.append(None)
        if len(calls) == 2:
            raise ValueError("lost")
        return one_answer(*args, **options)

    monkeypatch.setattr("lightning_morse.monitoring.exploring.analyze_turning", sometimes)
    monkeypatch.setattr(
        "lightning_morse.callbacks._figures.plot_timeline",
        lambda h: drawn.append(h) or Figure(),
    )
    watch = monitor()
    fit(tmp_path, watch, max_epochs=3)
    assert [row["morse/failed"] for row in watch.history] == [0, 1, 0]
    assert [[row["step"] for row in h] for h in drawn] == [[5, 11, 17]]
    assert watch.history[1]["basins"] == watch.history[0]["basins"]
    good, bad, _ = drawn[0]
    assert (good["why"], bad["why"]) == ("", "ValueError: lost")
    assert bad["loss"] is None
    assert good["loss"] > 0


def test_the_loss_of_the_weights_is_in_the_history(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor()
    fit(tmp_path, watch, max_epochs=1)
    (row,) = watch.history
    assert row["loss"] == pytest.approx(watch.result.sample_losses[0])
    assert row["loss"] - row["morse/headroom"] == pytest.approx(0.125)


def test_what_is_due_and_not_analysed_is_kept_with_its_reason(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    skips = {2, 3, 5}
    decide = Schedule.decide

    def sometimes(self, trainer, *args, **options):
        if trainer.current_epoch in skips:
            return Decision(wait=math.inf)
        return decide(self, trainer, *args, **options)

    monkeypatch.setattr(Schedule, "decide", sometimes)
    watch = monitor(every_n_epochs=1)
    fit(tmp_path, watch, max_epochs=6)
    why = "no time, max_overhead=1 with grace=2"
    assert watch.left_out == [
        {"step": 17, "epoch": 2, "until": 23, "count": 2, "why": why},
        {"step": 35, "epoch": 5, "until": 35, "count": 1, "why": why},
    ]
    again = monitor(every_n_epochs=1)
    again.load_state_dict(watch.state_dict())
    assert again.left_out == watch.left_out
    old = {k: v for k, v in watch.state_dict().items() if k != "left_out"}
    again.load_state_dict(old)
    assert again.left_out == []


def test_a_bound_does_not_become_one_in_single_precision(tmp_path, monkeypatch):
    def sure(*args, **options):
        result = one_attractor(*args, **options)
        sets = (dataclasses.replace(result.morse_sets[0], mu=1 - 1e-12), *result.morse_sets[1:])
        return dataclasses.replace(result, mu=1 - 1e-11, morse_sets=sets), None

    monkeypatch.setattr("lightning_morse.monitoring.exploring.analyze_turning", sure)
    watch = monitor()
    _, runner = fit(tmp_path, watch, max_epochs=1)
    for name in ("morse/mu", "morse/mu_smallest", "morse/mu_current"):
        assert 0.999999 < runner.callback_metrics[name] < 1


@pytest.mark.slow
def test_files_without_tensorboard(pictures, tmp_path):
    watch = monitor()
    fit(tmp_path, watch)
    folder = tmp_path / "morse_runs" / "run_0" / "morse"
    stems = [f"step-{STEPS_PER_EPOCH - 1:07d}", f"step-{2 * STEPS_PER_EPOCH - 1:07d}"]
    ends = (".npz", ".json", ".view.json", "-basins.png", "-graph.png", "-merge.png")
    expected = {*(s + end for s in stems for end in ends), f"{stems[1]}-timeline.png"}
    assert {p.name for p in folder.iterdir()} == expected
    loaded = MorseAnalysis.load(folder / f"{stems[1]}.npz")
    assert np.array_equal(loaded.labels, watch.result.labels)
    facts = json.loads((folder / f"{stems[1]}.json").read_text())
    assert facts["morse/mu"] == watch.history[1]["morse/mu"]
    assert facts["sets"] == watch.result.table().splitlines()
    view = decode((folder / f"{stems[1]}.view.json").read_bytes())
    assert np.array_equal(view.labels, watch.result.labels)
    assert view.scalars["morse/mu"] == watch.history[1]["morse/mu"]
    assert view.step == watch.history[1]["step"]
    assert len(view.trajectory) > 2
    assert view.current.tolist() == [0, 0]
    assert (folder / f"{stems[0]}-basins.png").read_bytes()[:4] == b"\x89PNG"


def test_csv_logger_gets_the_scalars(tmp_path):
    fit(tmp_path, monitor(), logger=CSVLogger(tmp_path, version=0))
    table = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    assert set(UNKNOWN) <= set(table.splitlines()[0].split(","))
    assert (tmp_path / "lightning_logs/version_0/morse").is_dir()


def test_a_failing_logger_ends_nothing_and_spares_the_others(tmp_path, caplog):
    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if any(k.startswith("morse/") for k in metrics):
                raise OSError("disk full")

    broken, fine = Broken(tmp_path / "a", version=0), CSVLogger(tmp_path / "b", version=0)
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, monitor(), logger=[broken, fine])
    assert "morse/mu" in (tmp_path / "b/lightning_logs/version_0/metrics.csv").read_text()
    said = [r.getMessage() for r in caplog.records if "disk full" in r.getMessage()]
    assert said == ["MorseMonitor: logging to Broken failed: OSError: disk full"]


def test_a_long_analysis_says_what_it_found(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("lightning_morse.callbacks._account.QUIET_BELOW_SECONDS", 0.0)
    watch = monitor()
    with caplog.at_level(logging.INFO, "lightning_morse"):
        fit(tmp_path, watch, max_epochs=1)
    told, line = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert told == (
        "MorseMonitor: 1 of 1 layers that keep running statistics use those of the batch in "
        "analyses (batch_norm='batch')"
    )
    assert re.fullmatch(
        r"epoch 1: Certainly in the basin of attractor 0: [\d.]+ above its floor of about 0\.125, "
        r"barrier perhaps 0\.375\. \(at least 1 attractor, mu 0\.95; \d\.\d s\)",
        line,
    )


def test_figures_before_any_analysis_are_refused():
    with pytest.raises(RuntimeError, match="no analysis yet"):
        monitor().figures()


# --------------------------------------------------------------------- with other callbacks


def test_early_stopping_and_checkpoints_can_watch(tmp_path):
    stop = EarlyStopping(monitor="morse/attractors", patience=50, check_finite=True)
    best = ModelCheckpoint(dirpath=tmp_path, monitor="morse/mu", mode="max")
    watch = monitor(every_n_epochs=2)
    fit(tmp_path, stop, best, watch, max_epochs=4, enable_checkpointing=True)
    assert stop.stopped_epoch == 0
    assert stop.wait_count > 0  # it did look
    assert float(best.best_model_score) == pytest.approx(max(r["morse/mu"] for r in watch.history))


def test_early_stopping_stops_on_it(tmp_path):
    stop = EarlyStopping(monitor="morse/seconds", mode="max", stopping_threshold=1e-9)
    _, runner = fit(tmp_path, monitor(every_n_epochs=2), stop, max_epochs=5)
    assert runner.current_epoch == 2


# --------------------------------------------------------------------------------- periods


def test_step_period(tmp_path):
    watch = monitor(every_n_steps=4)
    fit(tmp_path, watch, max_epochs=3)
    assert [row["step"] + 1 for row in watch.history] == [4, 8, 12, 16, 18]  # the last weights, too


def test_step_period_counts_optimizer_steps_under_accumulation(tmp_path):
    watch = monitor(every_n_steps=2)
    fit(tmp_path, watch, max_epochs=2, accumulate_grad_batches=2)
    assert [row["step"] + 1 for row in watch.history] == [2, 4, 6]


@pytest.mark.parametrize(("limit", "accumulate"), [(1.0, 1), (4, 1), (1.0, 4)])
def test_epoch_period_ends_with_the_epoch(tmp_path, limit, accumulate):
    watch = monitor(every_n_epochs=2)
    fit(
        tmp_path,
        watch,
        max_epochs=4,
        limit_train_batches=limit,
        accumulate_grad_batches=accumulate,
    )
    assert [row["epoch"] for row in watch.history] == [1, 3]


def test_an_epoch_whose_last_batch_is_skipped_is_analysed(tmp_path):
    class Skips(Net):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 5 else super().training_step(batch, batch_idx)

    watch = monitor(loss_fn=lambda module, batch: module.net(batch[0]).square().mean())
    fit(tmp_path, watch, module=Skips())
    assert [row["epoch"] for row in watch.history] == [0, 1]


def test_silent_where_nothing_is_trained(tmp_path):
    watch = monitor()
    fit(tmp_path, watch, fast_dev_run=True)
    module = Net()
    runner = trainer(tmp_path, watch)
    runner.validate(module, loader(16), verbose=False)
    assert watch.history == []
    assert not (tmp_path / "morse").exists()


# ------------------------------------------------------------------------------ directions


def test_falling_back_to_random_is_said_once(tmp_path, caplog):
    watch = monitor(every_n_steps=1)
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, watch, max_epochs=1, limit_train_batches=3)
    said = [r.getMessage() for r in caplog.records if "random directions" in r.getMessage()]
    assert said == [
        "MorseMonitor: random directions instead of pca: there are only 2 distinct snapshots of "
        "the trajectory yet"
    ]
    assert len(watch.history) == 3
    assert watch._account.view.axis_labels[0].startswith("PC 1")


def test_random_directions_stay_the_same(tmp_path):
    slices = []
    watch = monitor(directions="random")
    choose = watch._source.slice_at

    def slice_at(*args):
        slices.append(choose(*args))
        return slices[-1]

    watch._source.slice_at = slice_at
    fit(tmp_path, watch)
    assert torch.equal(slices[0].subspace.directions, slices[1].subspace.directions)
    assert not torch.equal(slices[0].subspace.origin, slices[1].subspace.origin)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.mark.parametrize("form", ["matrix", "flat", "named"])
def test_directions_of_the_users(tmp_path, form):
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(N_WEIGHTS, 2, generator=generator)
    given = {"matrix": matrix, "flat": list(matrix.T)}
    first = matrix[:24, 0].reshape(8, 3)
    given["named"] = [{"net.0.weight": first}, {"net.4.bias": torch.ones(1)}]
    watch = monitor(directions=given[form])
    fit(tmp_path, watch, max_epochs=1)
    assert not watch.history[0]["morse/failed"]
    assert watch._account.view.axis_labels[0].startswith("direction 1")


def steepest(module, batches):
    """Gradient of the loss of the first batch, by name, and everything else."""
    x, y = batches[0]
    nn.functional.mse_loss(module.net(x), y + torch.rand(1)).backward()
    first = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.net[0].weight.data.zero_()
    module.net[1].running_mean.fill_(7.0)
    x.zero_()
    return [first, torch.ones(N_WEIGHTS)]


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("directions", ["gradient", "hessian", steepest])
def test_directions_from_the_network(tmp_path, directions, dim):
    if directions is steepest and dim == 1:
        directions = lambda module, batches: steepest(module, batches)[:1]  # noqa: E731
    plain, _ = fit(tmp_path / "without")
    watch = monitor(directions=directions, dim=dim)
    watched, _ = fit(tmp_path / "with", watch)
    assert_same_run(plain, watched)
    assert not watch.history[-1]["morse/failed"]
    kind = {"gradient": "descent direction 1", "hessian": "Hessian eigenvector 1"}
    label = watch._account.view.axis_labels[0]
    assert label.startswith(kind.get(directions, "direction 1"))  # no fallback


def test_a_loss_without_second_derivatives_falls_back(tmp_path, caplog):
    def loss_fn(module, batch):
        return module.net[0](batch[0]).mean()

    watch = monitor(directions="hessian", loss_fn=loss_fn)
    fit(tmp_path, watch)
    said = [r.message for r in caplog.records if "instead of" in r.message]
    assert said == [
        "MorseMonitor: random directions instead of hessian: the Hessian is zero at the current "
        "weights"
    ]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "directions must be a sequence, got NoneType"),
        ([ONES], "directions must be dim = 2 vectors, got 1"),
        ([ONES, ONES[:-1]], r"directions\[1\] must be flat"),
        (ONES, r"directions must have shape \(p, dim\)"),
        ([ONES, ONES], r"directions\[1\].*span"),
    ],
)
def test_what_a_function_returns_is_checked(tmp_path, caplog, returned, message):
    watch = monitor(directions=lambda module, batches: returned)
    fit(tmp_path, watch)
    assert watch.history[-1]["morse/failed"]
    assert any(re.search(message, r.message) for r in caplog.records)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, monitor(directions=lambda module, batches: returned, on_error="raise"))


@pytest.mark.parametrize("form", ["flat", "state dict", "path"])
def test_plane_through_checkpoints(tmp_path, form):
    modules = []
    for seed in range(3):
        torch.manual_seed(seed)
        modules.append(Net())
    given = {"flat": [flat(m) for m in modules], "state dict": [m.state_dict() for m in modules]}
    given["path"] = [tmp_path / f"{i}.ckpt" for i in range(3)]
    for path, module in zip(given["path"], modules, strict=True):
        torch.save({"state_dict": module.state_dict()}, path)
    watch = monitor(directions="checkpoints", checkpoints=given[form], extent="auto")
    fit(tmp_path, watch, max_epochs=1, module=modules[0])
    assert not watch.history[0]["morse/failed"]
    # The box is centred on the plane's own origin, and the current weights lie off it.
    assert np.abs(watch._account.view.current).max() > 0
    assert watch.history[0]["morse/residual"] > 0
    assert math.isfinite(watch.history[0]["morse/explained"])


def test_identical_checkpoints_are_refused_before_training(tmp_path):
    module = Net()
    same = [module.state_dict(), Net().state_dict(), module.state_dict()]
    watch = monitor(directions="checkpoints", checkpoints=same, on_error="raise")
    with pytest.raises(ValueError, match=r"checkpoints.*identical.*0.*2"):
        fit(tmp_path, watch, module=module)
    assert module.seen == []


def directions_of(*vectors: torch.Tensor) -> dict[str, object]:
    return {"directions": list(vectors)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (directions_of(ONES, ONES[:-1]), r"directions\[1\] must be flat"),
        (directions_of(ONES, 2 * ONES), r"directions\[1\].*collinear"),
        (directions_of(ONES, 0 * ONES), r"directions\[1\].*zero"),
        (directions_of(ONES, math.nan * ONES), r"directions\[1\] must be finite"),
        ({"directions": [{"nowhere": ONES}, STEPS]}, r"directions\[0\] has 'nowhere'"),
        ({"directions": [{"net.4.bias": ONES}, STEPS]}, r"\['net.4.bias'\] must be.*\(1,\)"),
        ({"directions": [3.0, STEPS]}, r"directions\[0\] must be a flat tensor.*float"),
        (
            {"directions": "checkpoints", "dim": 1, "checkpoints": [{}, ONES]},
            r"checkpoints\[0\] lacks 'net.0.bias'",
        ),
    ],
)
def test_directions_are_checked_before_training(tmp_path, options, message):
    module = Net()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, monitor(on_error="raise", **options), module=module)
    assert module.seen == []


def test_unreadable_checkpoint_is_refused_before_training(tmp_path):
    path = tmp_path / "junk.ckpt"
    path.write_bytes(b"junk")
    watch = monitor(directions="checkpoints", dim=1, checkpoints=[path, ONES], on_error="raise")
    with pytest.raises(ValueError, match=r"checkpoints\[0\].*weights_only.*junk.ckpt"):
        fit(tmp_path, watch)


def test_manual_optimization_with_a_loss_fn(tmp_path):
    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for _ in range(2):  # two optimizer steps per batch
                self.optimizers().zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                self.optimizers().step()

    def loss_fn(module, batch):
        return nn.functional.mse_loss(module.net(batch[0]), batch[1])

    watch = monitor(loss_fn=loss_fn, every_n_steps=5)
    _, runner = fit(tmp_path, watch, module=Manual(), max_epochs=1)
    assert runner.global_step == 12
    # Due at 5 and 11, and noticed when a batch ends.
    assert [row["step"] for row in watch.history] == [2, 5]
    assert not watch.history[-1]["morse/failed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 1, "every_n_steps": 5}, "every_n_epochs and every_n_steps"),
        ({"every_n_epochs": 0}, "every_n_epochs must be an integer of at least 1, got 0"),
        ({"every_n_steps": 1.5}, "every_n_steps must be an integer"),
        ({"directions": "hills"}, "directions must be one of.*'hills'"),
        ({"directions": ONES}, r"directions must have shape \(p, dim\)"),
        ({"directions": ONES[:, None]}, "directions must be dim = 2 vectors, got 1"),
        ({"directions": {"a": ONES}}, "directions must be a sequence"),
        ({"directions": 3}, "directions must be a sequence"),
        ({"directions": None}, "directions must be a sequence"),
        ({"directions": "checkpoints"}, "belong together"),
        ({"checkpoints": [ONES]}, "belong together"),
        ({"directions": "checkpoints", "checkpoints": [ONES, STEPS]}, "dim \\+ 1 = 3"),
        ({"directions": "checkpoints", "checkpoints": "a.ckpt"}, "checkpoints must be a sequence"),
        (
            {"directions": "checkpoints", "dim": 1, "checkpoints": ["/nowhere.ckpt", ONES]},
            r"checkpoints\[0\] must be an existing file",
        ),
        ({"dim": 0}, "dim must be an integer of at least 1"),
        ({"dim": 4}, "dim must be 1, 2 or 3"),
        ({"dim": True}, "dim must be an integer"),
        ({"n_samples": 15}, "n_samples must be an integer of at least 16"),
        ({"resolution": 3}, "resolution must be an integer of at least 4"),
        ({"confidence": 1.0}, "confidence must lie strictly between 0 and 1"),
        ({"confidence": "high"}, "confidence must lie"),
        ({"extent": "wide"}, "extent must be 'auto'"),
        ({"extent": -1.0}, "extent must be 'auto'"),
        ({"extent": [1.0, 2.0, 3.0]}, "extent must be .* 2 of them"),
        ({"extent": math.inf}, "extent must be"),
        ({"extent": [1.0, None]}, "extent must be"),
        ({"loss_fn": 3}, "loss_fn must be callable"),
        ({"probe_batches": 0}, "probe_batches must be an integer"),
        ({"max_snapshots": 2}, "max_snapshots must be an integer of at least 3"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        MorseMonitor(**options)


def test_arguments_after_the_first_two_are_named():
    with pytest.raises(TypeError, match="positional"):
        MorseMonitor("pca", 2, 5)
    assert MorseMonitor("random", 1).settings.dim == 1


def test_dim_above_the_number_of_weights_is_refused(tmp_path):
    module = Net()
    for p in list(module.parameters())[:-1]:
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="dim must be at most the number of trainable weights, 1"):
        fit(tmp_path, monitor(on_error="raise"), module=module)


def test_axis_labels_say_what_is_explained():
    assert axis_labels("random", [0.004]) == ["random direction 1 (0 % of the trajectory)"]


# ------------------------------------------------------------------------------------- box


def test_extent_as_a_share_of_the_trajectory(tmp_path):
    boxes = []
    for extent in ("100%", "250%"):
        watch = monitor(directions=[ONES, STEPS], extent=extent)
        fit(tmp_path, watch)
        reach = np.abs(watch._account.view.trajectory).max(axis=0)
        reach = np.maximum(reach, reach.max() / 4)
        boxes.append(watch.result.grid.upper / reach)
    assert boxes[0] == pytest.approx([1.0, 1.0])
    assert boxes[1] == pytest.approx([2.5, 2.5])


def test_extent_given_is_kept(tmp_path):
    watch = monitor(extent=[0.5, 0.25])
    fit(tmp_path, watch, max_epochs=1)
    assert watch.result.grid.upper.tolist() == [0.5, 0.25]
    assert watch.result.grid.lower.tolist() == [-0.5, -0.25]


# ------------------------------------------------------------------------- memory and state


def test_snapshots_are_bounded_in_a_run(tmp_path):
    watch = monitor(max_snapshots=4)
    fit(tmp_path, watch, max_epochs=4)
    assert 2 < len(watch._run.trajectory) <= 4
    assert watch._run.trajectory.snapshots().shape[1] == N_WEIGHTS


def test_snapshots_start_over_when_parameters_are_unfrozen(tmp_path):
    class Thaws(Net):
        def __init__(self):
            super().__init__()
            self.net[0].requires_grad_(False)

        def on_train_epoch_start(self):
            self.net[0].requires_grad_(self.current_epoch > 0)

    watch = monitor()
    fit(tmp_path, watch, module=Thaws())
    assert [row["morse/failed"] for row in watch.history] == [0, 0]
    assert watch._run.trajectory.n_parameters == N_WEIGHTS


def test_resumed_run_looks_at_the_same(tmp_path):
    through = monitor()
    fit(tmp_path / "a", through, max_epochs=3)

    save = ModelCheckpoint(dirpath=tmp_path / "b", save_last=True)
    before = monitor()
    fit(tmp_path / "b", before, save, max_epochs=2, enable_checkpointing=True)
    path = str(tmp_path / "b" / "last.ckpt")
    state = torch.load(path, weights_only=True)["callbacks"]
    assert before.state_key in state

    after = monitor()
    fit(tmp_path / "c", after, max_epochs=3, ckpt_path=path)
    assert [row["step"] for row in after.history] == [row["step"] for row in through.history]
    assert after.history[:2] == before.history
    for x, y in zip(after._run.probe, through._run.probe, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
    # Lightning does not restore the order of the data, so only the record can be compared.
    assert len(after._run.trajectory) == len(through._run.trajectory)
    assert torch.equal(after._run.trajectory.snapshots()[0], through._run.trajectory.snapshots()[0])


def test_a_second_fit_starts_afresh(tmp_path):
    watch = monitor()
    fit(tmp_path / "a", watch, max_epochs=1)
    fit(tmp_path / "b", watch, max_epochs=1)
    assert [row["epoch"] for row in watch.history] == [0]


# --------------------------------------------------------------------------------- example


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_digits_example(real, tmp_path, capsys, activation):
    from examples.digits import main

    options = ["--epochs", "3", "--resolution", "64"]
    watch = main([*options, "--log-dir", str(tmp_path), "--activation", activation])
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert len(lines) == len(watch.history) == 3
    assert "val accuracy 0.9" in lines[-1]
    assert f"tensorboard --logdir {tmp_path}" in out
    assert " ".join(out.split()).count(watch.sentence) >= 1
    drawn = sorted(path.stem for path in tmp_path.rglob("*.png"))
    assert drawn == ["basins", "graph", "merge", "timeline"]
    assert not any(row["morse/failed"] for row in watch.history)
    assert all(row["morse/mu_model"] >= 0.95 for row in watch.history)
    assert watch.history[-1]["morse/attractors"] >= 1

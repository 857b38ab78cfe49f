"""An analysis whose numerics another process does while training goes on."""

from __future__ import annotations

import copy
import logging
import math
import os
import queue
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_morse import MorseMonitor
from lightning_morse.analysis.samples import BetweenBatches
from lightning_morse.analysis.turning import analyze_turning
from lightning_morse.callbacks import _analyses, _analysing, _analyst
from lightning_morse.callbacks._analysing import Analysed, Asked, Failed
from lightning_morse.callbacks._analyst import Analyst, EndedError
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.monitoring import pace
from lightning_morse.monitoring.in_background import InBackground
from lightning_morse.monitoring.machine import leaves_a_core
from lightning_morse.monitoring.one_analysis import OneAnalysis
from tests.callback_models import Net, draw_nothing, fit, rng_state

LONG = 120.0


class Here:
    """Stands in for the process: a thread that works while this one waits for what it says."""

    def __init__(self, analyze=analyze_turning, patience=1) -> None:
        self.analyze, self.patience = analyze, patience
        self.job, self.n_jobs, self.looks = None, 0, 0
        self.was_told: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> Here:
        patch.setattr(Analyst, "make_ready", lambda _: None)
        patch.setattr(Analyst, "is_ready", property(lambda _: self.job is None))
        patch.setattr(Analyst, "ask", lambda _, *given: self.ask(*given))
        patch.setattr(Analyst, "heard", lambda _: self.heard())
        patch.setattr(Analyst, "reply", lambda _, *given, **named: self.replies.put((given, named)))
        patch.setattr(Analyst, "give_up", lambda _: self.told("give up"))
        patch.setattr(Analyst, "end", lambda _: self.told("end"))
        return self

    def told(self, what: str) -> None:
        if self.job is not None:
            self.was_told.append(what)
            self.replies.put(None)
            self.job.join()
        self.job = None

    def ask(self, given: Any, options: Any) -> None:
        self.said, self.replies = queue.Queue(), queue.Queue()
        is_over = False

        def loss(points: Tensor) -> Tensor:
            nonlocal is_over
            self.said.put(Asked(points.numpy()))
            reply = self.replies.get()
            if reply is None:
                raise EndedError
            (losses,), named = reply
            is_over = named["is_over"]
            return torch.tensor(losses, dtype=torch.float64)

        def work() -> None:
            limits = {"is_over": BetweenBatches(lambda: is_over)}
            try:
                self.said.put(Analysed(*self.analyze(loss, *given, **limits, **options), 0.5))
            except EndedError:
                return
            except Exception as error:
                self.said.put(Failed(error))

        self.n_jobs += 1
        self.job = threading.Thread(target=work)
        self.job.start()

    def heard(self) -> Any:
        self.looks += 1
        if self.job is None or self.looks % self.patience:
            return None
        found = self.said.get()
        if not isinstance(found, Asked):
            self.job.join()
            self.job = None
        return found


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """Runs of a second are long enough, and nothing is drawn."""
    monkeypatch.setattr(pace, "_SHARE_FOR_BACKGROUND", 1e6)
    monkeypatch.setattr(pace, "WORTH_A_PROCESS_SECONDS", 0.0)
    monkeypatch.setattr(_analyses, "leaves_a_core", lambda device: True)
    draw_nothing(monkeypatch)


def limited(**options: Any) -> MorseMonitor:
    defaults = {"n_samples": 24, "resolution": 24, "probe_batches": 2, "every_n_steps": 20}
    return MorseMonitor(**{**defaults, "max_overhead": 0.5, "grace": 1000.0, **options})


def states(module: nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


def test_training_does_not_see_it(tmp_path, monkeypatch):
    here = Here(patience=2).install(monkeypatch)
    watch = limited()
    bare, _ = fit(tmp_path, max_epochs=20)
    random = rng_state()
    watched, runner = fit(tmp_path, watch, max_epochs=20)
    assert rng_state() == random
    assert states(watched) == states(bare)
    assert watched.seen == bare.seen
    assert here.n_jobs >= 2
    # All but the last are made there, each of the weights of the step at which it began.
    steps = [row["step"] for row in watch.history]
    assert len(steps) == here.n_jobs + 1
    assert steps == sorted(steps)
    assert steps[-1] == runner.global_step - 1
    assert not any(row["morse/failed"] for row in watch.history)


def test_it_finds_what_an_analysis_at_once_finds(tmp_path, monkeypatch):
    compared, run = [], OneAnalysis.run

    def both(self: OneAnalysis) -> Any:
        begun = InBackground.begun(self)
        given, options = begun.arguments()
        result, _ = analyze_turning(
            lambda points: torch.tensor(begun.losses(points.numpy())), *given, **options
        )
        at_once = run(self).result
        compared.append(result)
        # Another copy of the network may lie elsewhere in memory, which changes its last digits.
        np.testing.assert_allclose(result.samples, at_once.samples, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(result.sample_losses, at_once.sample_losses, rtol=1e-4)
        assert result.n_attractors == at_once.n_attractors
        assert (result.labels == at_once.labels).mean() > 0.99

    monkeypatch.setattr(OneAnalysis, "run", both)
    fit(tmp_path, limited(max_overhead=1.0, on_error="raise"), max_epochs=10)
    assert len(compared) >= 3


class Weighted(Net):
    """A loss whose weight goes up with the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (1 + self.weight) * super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.weight += 0.01


def test_a_loss_that_changes_meanwhile_is_analysed_at_once_from_then_on(
    tmp_path, monkeypatch, caplog
):
    here, watch = Here().install(monkeypatch), limited()
    with caplog.at_level(logging.INFO, "lightning_morse"):
        fit(tmp_path, watch, module=Weighted(), max_epochs=10)
    assert here.n_jobs == 1
    assert "the loss of the same weights was" in caplog.text
    assert watch.left_out[0]["why"].startswith("the loss of the same weights")
    assert len(watch.history) >= 2
    assert not any(row["morse/failed"] for row in watch.history)


def test_what_is_not_done_when_training_ends_is_left_out(tmp_path, monkeypatch):
    here, watch = Here(patience=10**9).install(monkeypatch), limited()
    fit(tmp_path, watch, max_epochs=5)
    assert here.was_told == ["end"]
    assert "training ended before it was done" in [row["why"] for row in watch.left_out]
    assert len(watch.history) == 1  # the last weights


def test_a_process_that_has_no_core_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "_SLOWER_IN_BACKGROUND", 1.001)
    monkeypatch.setattr("lightning_morse.monitoring.portions.Portions.numerics", lambda _: 1e-4)
    here, watch = Here(patience=10**9).install(monkeypatch), limited()
    fit(tmp_path, watch, max_epochs=10)
    assert here.was_told == ["end"]
    assert here.n_jobs == 1  # from then on analyses are made at once
    assert watch.left_out[0]["why"] == _analyses.TOO_SLOW
    assert len(watch.history) >= 2


class Breaks(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 25:
            raise KeyError("on purpose")


def test_a_run_that_is_broken_off_leaves_no_process(tmp_path, monkeypatch):
    here, watch = Here(patience=10**9).install(monkeypatch), limited()
    with pytest.raises(KeyError, match="on purpose"):
        fit(tmp_path, watch, Breaks(), max_epochs=10)
    assert here.was_told == ["end"]
    assert here.job is None


def test_what_is_given_up_is_not_taken_off_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "_SLOWER_IN_BACKGROUND", 1.001)
    monkeypatch.setattr("lightning_morse.monitoring.portions.Portions.numerics", lambda _: 1e-4)
    Here(patience=10**9).install(monkeypatch)
    watch, told = limited(), []
    analysed, took = Schedule.analysed, Schedule.took

    def noted(self: Schedule, step: int, seconds: float, last: float, *given: Any) -> None:
        told.append(seconds - last)
        analysed(self, step, seconds, last, *given)

    monkeypatch.setattr(Schedule, "analysed", noted)
    monkeypatch.setattr(Schedule, "took", lambda self, s: told.append(s) or took(self, s))
    fit(tmp_path, watch, max_epochs=10)
    assert told[0] > 0  # of the one that is given up
    assert len(told) >= 3
    assert not any(told[1:])


def test_a_failure_there_is_a_failed_analysis(tmp_path, monkeypatch, caplog):
    def fails(*given: Any, **options: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    here, watch = Here(fails).install(monkeypatch), limited()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, watch, max_epochs=5)
    assert here.n_jobs >= 1
    assert [row["morse/failed"] for row in watch.history][:1] == [1]
    assert "on purpose" in watch.history[0]["why"]


def test_a_failure_of_the_loss_gives_the_process_up(tmp_path, monkeypatch):
    here, watch = Here().install(monkeypatch), limited()
    monkeypatch.setattr(InBackground, "losses", lambda *_: 1 / 0)
    fit(tmp_path, watch, max_epochs=5)
    assert here.was_told[0] == "give up"
    assert watch.history[0]["morse/failed"] == 1
    assert watch.history[-1]["morse/failed"] == 0  # the last weights, at once


def test_a_loss_that_becomes_dear_ends_it(tmp_path, monkeypatch, caplog):
    here, watch = Here().install(monkeypatch), limited()
    monkeypatch.setattr("lightning_morse.monitoring.meter.Meter.affords", lambda _, n: n != 1)
    with caplog.at_level(logging.INFO, "lightning_morse"):
        fit(tmp_path, watch, max_epochs=5)
    assert here.was_told[0] == "give up"
    assert "the loss has become too dear" in caplog.text
    assert [row["morse/failed"] for row in watch.history] == [0]


def test_a_copy_has_no_analysis_under_way(tmp_path, monkeypatch):
    Here(patience=10**9).install(monkeypatch)
    copies: list[MorseMonitor] = []

    class Copies(pl.Callback):
        def on_train_end(self, trainer: Any, *args: Any) -> None:
            copies.append(copy.deepcopy(watch))

    watch = limited()
    # Callbacks are called in this order.
    fit(tmp_path, Copies(), watch, max_epochs=5)
    assert copies[0]._analyses._under_way is None


@pytest.mark.parametrize("options", [{"max_overhead": 1.0}, {"dynamics": "trajectory"}])
def test_without_a_limit_and_without_a_loss_all_is_done_at_once(tmp_path, monkeypatch, options):
    here = Here().install(monkeypatch)
    fit(tmp_path, limited(**options), max_epochs=5)
    assert not here.n_jobs


def test_where_training_has_all_cores_all_is_done_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_analyses, "leaves_a_core", lambda device: False)
    here = Here().install(monkeypatch)
    fit(tmp_path, limited(), max_epochs=5)
    assert not here.n_jobs


def test_a_core_is_left_where_there_are_more_than_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for threads, leaves in ((1, True), (2, True), (3, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert leaves_a_core(torch.device("cpu")) is leaves
    assert leaves_a_core(torch.device("cuda"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert not leaves_a_core(torch.device("cuda"))


# ------------------------------------------------------------------------- the process itself


def bowl(points: Any) -> list[float]:
    return [float((p**2).sum()) for p in points]


def asked(analyst: Analyst) -> None:
    given = [[0.3, 0.2], [-1.0, -1.0], [1.0, 1.0], None, 24, 24, 0.95, 0]
    analyst.ask(
        [torch.tensor(g).numpy() if isinstance(g, list) else g for g in given], {"most": 24}
    )


def said(analyst: Analyst) -> Any:
    end = time.monotonic() + LONG
    while (found := analyst.heard()) is None:
        assert time.monotonic() < end
        time.sleep(0.001)
    return found


@pytest.fixture
def analyst():
    made = Analyst()
    made.make_ready()
    end = time.monotonic() + LONG
    while not made.is_ready:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield made
    made.end()


@pytest.mark.slow
def test_a_process_that_takes_what_is_idle_does_one_analysis_after_the_other(analyst):
    worker = analyst._worker
    assert os.sched_getscheduler(worker.process.pid) == os.SCHED_IDLE
    for _ in range(2):
        asked(analyst)
        assert not analyst.is_ready
        while isinstance(found := said(analyst), Asked):
            analyst.reply(bowl(found.points), is_over=False)
        assert isinstance(found, Analysed)
        assert found.result.n_attractors == 1
        assert found.seconds > 0
        assert analyst.is_ready
    # What is given up, and what fails, leaves it ready for more.
    asked(analyst)
    assert isinstance(said(analyst), Asked)
    analyst.give_up()
    assert analyst.is_ready
    asked(analyst)
    while isinstance(found := said(analyst), Asked):
        analyst.reply([math.nan] * len(found.points), is_over=False)
    assert isinstance(found, Failed)
    assert type(found.error).__name__ == "SurrogateError"
    folder = Path(worker.folder)
    analyst.end()
    assert worker.process.returncode is not None
    assert not folder.exists()


@pytest.mark.slow
def test_a_process_that_has_died_is_not_asked_again(analyst):
    asked(analyst)
    assert isinstance(said(analyst), Asked)
    os.kill(analyst._worker.process.pid, signal.SIGKILL)
    analyst._worker.process.wait()
    with pytest.raises(EndedError, match="listen"):
        analyst.reply([0.0], is_over=False)
    found = said(analyst)
    assert isinstance(found, Failed)
    assert isinstance(found.error, EndedError)
    assert "has ended" in str(found.error)
    assert not analyst.is_ready
    analyst.make_ready()
    assert not analyst.is_ready


def test_where_there_can_be_no_process_there_is_none(monkeypatch):
    def no_worker(module: str) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(_analyst, "start", no_worker)
    analyst = Analyst()
    analyst.make_ready()
    assert not analyst.is_ready
    assert copy.deepcopy(analyst)._worker is None


def test_an_error_that_cannot_be_sent_is_told():
    class Local(Exception):
        pass

    assert isinstance(_analysing._portable(ValueError("a")).error, ValueError)
    assert str(_analysing._portable(Local("a")).error) == "Local: a"

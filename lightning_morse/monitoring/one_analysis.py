"""One analysis of a run: choose a slice, sample the loss on it, make its Morse graph, read it off.

It knows the network, the probe batches and the record of the run, and nothing of Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from torch import Tensor, nn

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.verdict import verdict
from lightning_morse.distributed.errors import Guard, cause, origin
from lightning_morse.distributed.processes import Lockstep, SharedLoss
from lightning_morse.distributed.sharding import compute_device, flat_shards
from lightning_morse.distributed.shards import Shards
from lightning_morse.monitoring import critical
from lightning_morse.monitoring.exploring import Exploration, half_widths_of
from lightning_morse.monitoring.findings import Explored, Findings, Look, View
from lightning_morse.monitoring.flow_check import flow_check
from lightning_morse.monitoring.identities import Identification
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from lightning_morse.monitoring.notices import tell_of_statistics, tell_of_steps
from lightning_morse.monitoring.probed_loss import LossFn, ProbedLoss
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.scalars import readings
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.snapshot_map import (
    analyze_snapshots,
    before_first,
    flow_readings,
    map_readings,
    trajectory_readings,
)
from lightning_morse.monitoring.tracking import MAX_PICTURES, Questions, Tracked, untracked
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.bases import WHOLE, Whole
from lightning_morse.slices.directions import DirectionSource, axis_labels
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters
from lightning_morse.slices.subspace import AffineSubspace

# Basins kept in the history of a run, largest first: the timeline has no room for more.
MOST_BASINS_IN_HISTORY = 32

# Of the samples that were asked for; some are kept for measurements that are not needed.
NEARLY_ALL = 0.9


@dataclass(frozen=True, eq=False)
class OneAnalysis:
    """An analysis of a run at its present weights.

    Attributes:
        settings: What the user asked for.
        source: Where the directions come from.
        module: The network.
        loss_fn: The loss of a batch; None for that of the module's own steps.
        record: What this process has kept of the run.
        title: When this is.
        warn: Takes a message and what identifies its cause.
        inform: Takes a message that is no reason to worry, and what it is about.
        meter: Says how large the analysis is, takes its time, and says when that is up.
        since: Gives the step since which analyses have found training in the basin of an identity.
    """

    settings: Settings
    source: DirectionSource
    module: nn.Module
    loss_fn: LossFn | None
    record: RunRecord
    title: str
    warn: Callable[[str, str], None]
    inform: Callable[[str, str], None]
    meter: Meter
    since: Callable[[float], int | None] = lambda identity: None

    def run(self) -> Findings | None:
        """Make the analysis, which leaves nothing behind; all processes call it together.

        Returns:
            The findings; result and view in the first process only. None if the time was up before
            there were samples enough.

        Raises:
            ProcessError: If it failed in another process.
        """
        with closing(self.loss):
            return self._made()

    def _made(self) -> Findings | None:
        try:
            subspace, look = self._choose_together() if self.record.sharded else self.choose()
            done, explored = self._explore_together(subspace, look)
        except OutOfTimeError as error:
            self.meter.why, done = str(error), False
        return self.found(explored) if done else None

    def found(self, explored: Explored | None, along_last: float | None = None) -> Findings:
        """Recognise the attractors, and read off where training is; all processes do it together.

        Args:
            explored: What the slice shows, in the first process.
            along_last: The sharpness along the last displacement, if it has been measured.
        """
        with self.meter.recognises():
            tracked = self._identify(explored)
            along_last = self.critical_sharpness() if along_last is None else along_last
        found: Findings | None = None

        def tell() -> tuple[dict[str, float], dict[int, float], float | None]:
            nonlocal found
            assert explored is not None
            assert tracked is not None
            found = self._findings(explored, tracked)
            found.scalars["sharpness_critical"] = along_last
            return found.scalars, found.basins, found.loss

        scalars, basins, now = self.record.processes.first(tell)
        return found if found is not None else Findings(scalars, basins, loss=now)

    def tell_of(self, loss: LossSlice) -> None:
        """Tell the user what evaluating the loss has shown of the module."""
        tell_of_steps(loss, self.warn)
        if self.settings.dynamics != "trajectory":  # otherwise the loss is not evaluated
            norm = self.settings.batch_norm
            tell_of_statistics(loss.statistics, norm, self.warn, self.inform)

    @cached_property
    def loss(self) -> ProbedLoss:
        """The loss as this analysis sees it."""
        given = self.settings, self.module, self.loss_fn, self.record
        # With several processes it would be a failure in all but the one that is out of time.
        check = self.meter.keep_to_time if self.record.processes.size == 1 else None
        return ProbedLoss(*given, self.meter.portion.batches, self.meter.portion.part, check)

    # ------------------------------------------------------------------ slice

    def choose(self) -> tuple[AffineSubspace, Look | None]:
        """The first process chooses the slice; the others get its subspace."""
        look: Look | None = None

        def choose() -> AffineSubspace:
            nonlocal look
            look = self._look(flat_parameters(self.module), WHOLE)
            # Tensors on an accelerator would arrive on the sender's.
            return look.subspace if self.record.processes.size == 1 else look.subspace.to("cpu")

        return self.record.processes.first(choose), look

    def _choose_together(self) -> tuple[AffineSubspace, Look]:
        """All processes choose the slice, each the rows that belong to its own weights."""
        lockstep = Lockstep(self.record.processes, compute_device(self.module))

        def choose() -> Look:
            weights = flat_shards(self.module, self.record.processes.rank)
            return self._look(weights, Shards(self.module, lockstep))

        look = lockstep.run(choose)
        return look.subspace, look

    def _look(self, weights: Tensor, rows: Whole) -> Look:
        path = self.record.trajectory.up_to(weights)
        parameters = dict(trainable_parameters(self.module))
        chosen = self.source.slice_at(weights, path, parameters, self.loss.shadow, rows)
        without_record = self.source.kind == "pca" and not self.record.trajectory.max_snapshots
        if chosen.fallback and not without_record:  # which has been told
            self.warn(f"random directions instead of {self.source.kind}: {chosen.fallback}", "")
        snapshots = self.record.trajectory.snapshots()
        # Those of the path are what a box has to hold, except where it has to hold checkpoints.
        known = chosen.kind != "checkpoints" and len(chosen.inside) == len(snapshots)
        at = chosen.inside if known else chosen.subspace.project(snapshots)
        coverage = chosen.coverage(weights, snapshots, at)
        return Look(chosen, chosen.subspace.project(weights), at, coverage)

    # ------------------------------------------------------------ exploration

    def _explore_together(
        self, subspace: AffineSubspace, look: Look | None
    ) -> tuple[bool, Explored | None]:
        """Analyse the slice: whether there was time for it, and in the first process the result."""
        record, explored = self.record, None
        loss = record.processes.each(lambda: self.loss.on(subspace))
        record.gather_probes()
        shared = SharedLoss(loss, lambda: loss.n_examples, record.processes)

        def explore() -> bool:
            nonlocal explored
            assert look is not None, "only the first process explores, and it chose the slice"
            try:
                explored = self._explore(shared, look)
            except OutOfTimeError as error:
                self.meter.why = str(error)
                return False
            return True

        try:
            return shared.explore(explore), explored
        finally:
            self.tell_of(loss)

    def _explore(self, loss: Loss, look: Look) -> Explored:
        if self.settings.dynamics == "trajectory":  # the loss is not evaluated
            half = half_widths_of(self.settings, look.chosen)
            result = self._snapshot_map(look.trajectory.numpy(), half)
            return Explored(look, result, math.nan, map_readings(result))
        exploration = Exploration.of(loss, look, self.settings, self.meter, turns=self.turns(look))
        result, axes = exploration.explored(loss)
        times = self.record.time.of(self.record.trajectory)
        return self.explored(loss, exploration, result, axes, times)

    def explored(
        self,
        loss: Loss,
        exploration: Exploration,
        result: MorseAnalysis,
        axes: Array | None,
        times: Array,
    ) -> Explored:
        """What an analysis of the loss shows.

        Args:
            loss: The loss on the slice.
            exploration: What was asked.
            result: What was found.
            axes: How it is turned; None if it is not.
            times: When the snapshots were taken.
        """
        began = exploration.look.trajectory[:1].double()
        look = exploration.turned(result, axes, self.inform)
        training = self._compare_with_training(result, look, times)
        in_a_basin = result.basin_of(look.current[None].numpy())[0] >= 0
        before = None if in_a_basin else self._loss_before(loss, began, len(result.samples))
        return Explored(look, result, exploration.now, training, before)

    def _loss_before(self, loss: Loss, began: Tensor, n_made: int) -> float | None:
        """The loss where training began, if there is time for it, and an evaluation left."""
        if not len(began) or n_made >= self.settings.most_wanted:
            return None
        has_time = self.meter.affords(1) or self.meter.makes_light_of(1)
        return float(self.meter.of(loss)(began)[0]) if has_time else None

    def _identify(self, explored: Explored | None) -> Tracked | None:
        """Recognise the attractors of earlier analyses; the result is in the first process."""
        record = self.record
        if record.sharded or self.settings.dynamics == "trajectory":
            # Of sharded weights no process holds the directions by which slices are compared, and
            # maps of successive snapshots are not one function.
            return self._unidentified(explored)

        slices = record.processes.share(record.plan.slices)
        if not slices:  # nor is there memory for earlier slices
            return self._unidentified(explored)

        def begin() -> Questions:
            assert explored is not None
            look = explored.look
            given = look.subspace, explored.result, look.current.numpy()
            # A line takes two more copies of the weights: where memory is short none is evaluated.
            return record.tracker.questions(*given, evaluated=slices == MAX_PICTURES)

        given = record.processes, self.loss.on, self.meter, self.warn
        # A number is the limit on a slice; what the monitor chooses is one for all together.
        most = math.inf if self.settings.most_samples else self.settings.most_wanted
        return Identification(*given, most).run(begin)

    def critical_sharpness(self) -> float:
        """The sharpness along the last displacement of the weights; all processes call it."""
        if self.settings.dynamics == "trajectory":  # the loss is not evaluated
            return critical.UNKNOWN
        given = lambda: flat_parameters(self.module), self.loss.on, self.meter, self.warn
        return critical.critical_sharpness(self.record, *given, self.settings.most_wanted)

    def _unidentified(self, explored: Explored | None) -> Tracked | None:
        if explored is None:
            return None
        return untracked(explored.result, explored.look.current.numpy())

    def _findings(self, explored: Explored, tracked: Tracked) -> Findings:
        """Read off where training is in the slice."""
        look = explored.look
        current, states = look.current.numpy(), look.trajectory.numpy()
        result, loss_now = explored.result, explored.loss_now
        found = verdict(result, current)
        scalars = {
            **readings(result, current, loss_now, found.face),
            "explained": look.coverage.explained,
            "residual": look.coverage.residual,
            "identity_current": float(tracked.current),
            "basin_switches": float(self.record.tracker.switches),
            "basin_forks": float(self.record.tracker.forks),
            "failed": 0.0,
            **explored.training,
        }
        labels = axis_labels(look.chosen.kind, look.coverage.shares)
        reach = float(np.linalg.norm(states - current, axis=1).max(initial=0.0))
        told = result, current, labels, loss_now, reach, self.since(tracked.current)
        before = explored.loss_before
        said = sentence(*told, loss_before=before, time_was_up=self._time_was_up(result))
        part = self.meter.portion.part
        if part is not None:
            said = f"{said} The loss is that of {part.words}."
        of = "" if part is None else part.words
        view = View(states, current, labels, self.title, tracked.identities, said, of)
        largest = sorted(result.basin_volumes.items(), key=lambda b: -b[1])[:MOST_BASINS_IN_HISTORY]
        basins = {tracked.identities[a]: volume for a, volume in largest}
        known = loss_now if math.isfinite(loss_now) else None
        return Findings(scalars, basins, result, view, known)

    def _time_was_up(self, result: MorseAnalysis) -> bool:
        """Whether there would have been more samples if there had been time."""
        wanted = NEARLY_ALL * self.settings.most_wanted
        return self.meter.is_limited and len(result.samples) < wanted

    def turns(self, look: Look) -> bool:
        """Whether the axes of a slice mean nothing by themselves, and others fit into memory."""
        roomy = not self.record.sharded and self.record.plan.slices == MAX_PICTURES
        return roomy and look.chosen.kind in ("pca", "random")

    def _compare_with_training(
        self, result: MorseAnalysis, look: Look, times: Array
    ) -> dict[str, float]:
        """Compare the snapshots with the flow of the slice, and analyse them too if asked.

        A failure here is no failed analysis.
        """
        settings, states = self.settings, look.trajectory.numpy()
        found = before_first(settings.dynamics)
        with Guard(partial(_warn_of_snapshots, self.warn)):
            found.update(flow_readings(flow_check(result, states, times)))
            if settings.dynamics == "both":
                half = np.maximum(-result.grid.lower, result.grid.upper)
                beside = self._snapshot_map(states, half)
                found.update(trajectory_readings(beside, look.current.numpy()))
        return found

    def _snapshot_map(self, states: Array, half: Array) -> MorseAnalysis:
        settings, cells = self.settings, self.meter.portion.resolution
        return analyze_snapshots(states, half, cells, settings.confidence, settings.seed)


def _warn_of_snapshots(warn: Callable[[str, str], None], error: Exception) -> None:
    warn(f"no reading of the snapshots ({cause(error)})", origin(error))

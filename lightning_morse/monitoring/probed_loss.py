"""The loss of a run as analyses see it: that of its module on the probe batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.distributed.errors import Guard
from lightning_morse.distributed.sharded_slice import ShardedSlice
from lightning_morse.monitoring.batch_parts import Part, fewest_examples, n_divisible, part_of
from lightning_morse.monitoring.costs import Timing
from lightning_morse.monitoring.meter import OutOfTimeError
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.settings import Settings
from lightning_morse.slices.copying import Check
from lightning_morse.slices.isolation import plain_arithmetic, preserved_random_state
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace

# An evaluation is timed so often, unless that takes longer than so many seconds.
_TIMES, _TIMING_SECONDS = 6, 0.1
# So many weights of a point are formed to see what that takes, and so often.
_MOST_FORMED, _TIMES_FORMED = 1 << 22, 4
# Keeps the choice of probe batches apart from the other random numbers of a seed.
_PROBES_STREAM = 4

LossFn = Callable[[Any, Any], Tensor | None]


@dataclass(frozen=True, eq=False)
class ProbedLoss:
    """The loss of a module on the probe batches of a run.

    Attributes:
        settings: What the user asked for.
        module: The network.
        loss_fn: The loss of a batch; None for that of the module's own steps.
        record: What this process has kept of the run.
        n_batches: Most batches that it is evaluated on.
        part: The part of each that it is evaluated on; None for all of it.
        check: Raises where there is no time to go on copying the module; None if there always is.
    """

    settings: Settings
    module: nn.Module
    loss_fn: LossFn | None
    record: RunRecord
    n_batches: int
    part: Part | None = None
    check: Check | None = None
    _made: list[ShadowLoss | LossSlice] = field(default_factory=list)

    def close(self) -> None:
        """Give up all copies of the module that were made to evaluate the loss."""
        while self._made:
            self._made.pop().close()

    def timed(self, clock: Callable[[], float], limit: float = math.inf) -> Timing:
        """What the loss takes on one probe batch, and a point of the slice; all processes call it.

        Args:
            clock: Seconds since an arbitrary moment.
            limit: Seconds that copying the module may take.

        Returns:
            Seconds are those of the first process, the median of a few; NaN if the loss cannot be
            evaluated there, or not by one process alone; infinite if there was no time to copy the
            module in one of them. Of the examples the fewest of any process
            count, and it is finite if it is in all of them.
        """
        if self.record.sharded:
            return Timing(math.nan)
        here = replace(self, n_batches=1, check=_within(limit, clock))._timed_here
        try:
            found = self.record.processes.gathered(lambda: here(clock), exchange=True)
        finally:
            self.close()
        n_examples = min(each.n_examples for each in found)
        finite = all(each.finite for each in found)
        seconds = math.inf if any(math.isinf(each.seconds) for each in found) else found[0].seconds
        return replace(found[0], seconds=seconds, n_examples=n_examples, finite=finite)

    def _timed_here(self, clock: Callable[[], float]) -> Timing:
        """What it takes in this process."""
        took: list[float] = []
        n_examples = fewest = 0
        finite, of_point = False, 0.0
        failures: list[Exception] = []
        with Guard(failures.append), preserved_random_state():
            loss = self.shadow()
            with plain_arithmetic(loss.weights[0].device.type), loss.leaving_no_trace():
                while len(took) < _TIMES and sum(took) <= _TIMING_SECONDS:
                    start = clock()
                    loss.reset()  # a module that holds much takes long over it, each time
                    now = sum(share * value.item() for share, value in loss.parts())
                    took.append(clock() - start)
            n = n_divisible(loss.batches[0])
            n_examples = n if n == loss.n_examples else 0  # else the step counts otherwise
            fewest = fewest_examples(loss.module, bool(loss.statistics.of_batch))
            finite = math.isfinite(now)
            if self.part is None:  # else it is known
                of_point = _seconds_of_point(loss.weights, self.settings.dim, clock)
        if any(isinstance(error, OutOfTimeError) for error in failures):
            return Timing(math.inf)
        # The first one may set things up, and any may be held up by something else.
        seconds = median_low(took[1:] or took) if took else math.nan
        return Timing(seconds, n_examples, fewest, finite, of_point)

    def shadow(self) -> ShadowLoss:
        """The loss at given weights."""
        batches, indices = self._probe_set()
        given = self.loss_fn, self.settings.seed
        norm = self.settings.batch_norm
        options: dict[str, Any] = {"indices": indices, "batch_norm": norm, "check": self.check}
        made = ShadowLoss(self.module, batches, *given, **options)
        self._made.append(made)
        return made

    def on(self, subspace: AffineSubspace) -> LossSlice:
        """The loss on a subspace."""
        batches, indices = self._probe_set()
        given = batches, self.loss_fn, self.settings.seed
        norm = self.settings.batch_norm
        if self.record.sharded:  # a failure in one process ends the evaluation in all
            sharded = ShardedSlice(self.module, subspace, *given, batch_norm=norm)
            self._made.append(sharded)
            return sharded
        subspace = subspace.to(trainable_parameters(self.module)[0][1].device)
        options: dict[str, Any] = {"batch_norm": norm, "check": self.check, "failing": "nan"}
        made = LossSlice(self.module, subspace, *given, indices, **options)
        self._made.append(made)
        return made

    def _probe_set(self) -> tuple[list[Any], list[int]]:
        """The batches that the loss is evaluated on, and their indices; the same all through a run.

        Where there is no time for all it is a random part.
        """
        probe, indices = self.record.probe, self.record.probe_indices
        if not probe:
            raise RuntimeError("no training batch has passed by that could be the probe set")
        rng = np.random.default_rng([self.settings.seed, _PROBES_STREAM])
        order = rng.permutation(max(self.settings.probe_batches, len(probe)))
        chosen = sorted([b for b in order if b < len(probe)][: self.n_batches])
        batches = [probe[b] for b in chosen]
        if self.part is not None:
            batches = [part_of(batch, self.part.n, self.settings.seed) for batch in batches]
        return batches, [indices[b] for b in chosen]


def _within(limit: float, clock: Callable[[], float]) -> Check | None:
    """Raises from so many seconds after now on."""
    if math.isinf(limit):
        return None
    end = clock() + limit

    def check() -> None:
        if clock() > end:
            raise OutOfTimeError("copying the network takes longer than there is time")

    return check


def _seconds_of_point(weights: Sequence[Tensor], dim: int, clock: Callable[[], float]) -> float:
    """What it takes to form the weights of a point, as :meth:`AffineSubspace.point` does it.

    Where there are so many that no cache holds them, a part of them tells what all take.
    """
    p = sum(weight.numel() for weight in weights)
    n = min(p, _MOST_FORMED)
    rows = torch.zeros(dim + 2, n, device=weights[0].device, dtype=torch.float32)
    origin, out, columns = rows[0], rows[1], rows[2:].T
    at = rows.new_zeros(dim)
    took = []
    for _ in range(_TIMES_FORMED):
        start = clock()
        torch.addmv(origin, columns, at, out=out)[0].item()  # which an accelerator waits for
        took.append(clock() - start)
    return median_low(took[1:]) * p / n

"""The loss of a run as analyses see it: that of its module on the probe batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_morse.distributed.errors import Guard
from lightning_morse.distributed.sharded_slice import ShardedSlice
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.settings import Settings
from lightning_morse.slices.isolation import plain_arithmetic, preserved_random_state
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace

# An evaluation is timed so often, unless that takes longer than so many seconds.
_TIMES, _TIMING_SECONDS = 6, 0.1
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
    """

    settings: Settings
    module: nn.Module
    loss_fn: LossFn | None
    record: RunRecord
    n_batches: int

    def seconds_of_one(self, clock: Callable[[], float]) -> float:
        """What the loss at the current weights takes on one probe batch; all processes call it.

        Args:
            clock: Seconds since an arbitrary moment.

        Returns:
            Seconds in the first process, the median of a few; NaN if the loss cannot be evaluated
            there, or not by one process alone.
        """
        if self.record.sharded:
            return math.nan

        def timed() -> float:
            took: list[float] = []
            with Guard(lambda error: None), preserved_random_state():
                loss = self.shadow(most=1)
                with plain_arithmetic(loss.weights[0].device.type):
                    while len(took) < _TIMES and sum(took) <= _TIMING_SECONDS:
                        loss.reset()
                        start = clock()
                        for _, value in loss.parts():
                            value.item()
                        took.append(clock() - start)
            # The first one may set things up, and any may be held up by something else.
            return median_low(took[1:] or took) if took else math.nan

        return self.record.processes.share(self.record.processes.each(timed))

    def shadow(self, most: int | None = None) -> ShadowLoss:
        """The loss at given weights.

        Args:
            most: At most so many batches, instead of what was planned.
        """
        batches, indices = self._probe_set(most)
        given = self.loss_fn, self.settings.seed
        norm = self.settings.batch_norm
        return ShadowLoss(self.module, batches, *given, indices=indices, batch_norm=norm)

    def on(self, subspace: AffineSubspace) -> LossSlice:
        """The loss on a subspace."""
        batches, indices = self._probe_set()
        given = batches, self.loss_fn, self.settings.seed
        norm = self.settings.batch_norm
        if self.record.sharded:  # a failure in one process ends the evaluation in all
            return ShardedSlice(self.module, subspace, *given, batch_norm=norm)
        subspace = subspace.to(trainable_parameters(self.module)[0][1].device)
        return LossSlice(self.module, subspace, *given, indices, failing="nan", batch_norm=norm)

    def _probe_set(self, most: int | None = None) -> tuple[list[Any], list[int]]:
        """The batches that the loss is evaluated on, and their indices; the same all through a run.

        Where there is no time for all it is a random part.

        Args:
            most: At most so many batches, instead of what was planned.
        """
        probe, indices = self.record.probe, self.record.probe_indices
        if not probe:
            raise RuntimeError("no training batch has passed by that could be the probe set")
        n = self.n_batches if most is None else most
        rng = np.random.default_rng([self.settings.seed, _PROBES_STREAM])
        order = rng.permutation(max(self.settings.probe_batches, len(probe)))
        chosen = sorted([b for b in order if b < len(probe)][:n])
        return [probe[b] for b in chosen], [indices[b] for b in chosen]

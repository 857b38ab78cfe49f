r"""Critical sharpness: how large a learning rate may be before a step as the last ones climbs.

Let :math:`\Delta` be the displacement of the weights since the last snapshot, :math:`\tau` the sum
of the learning rates of its steps, and :math:`u = \Delta / \tau`. The critical learning rate
:math:`\eta_c` is the smallest for which the loss at :math:`\theta + \eta\, u` is above that at
:math:`\theta`; the critical sharpness is :math:`2 / \eta_c` (critical rates as in Kalra, Barkeshli
2024, arXiv 2406.09405). After one step of gradient descent on a quadratic, with a small rate, it is
the curvature along the gradient. For any optimizer a step as the last ones climbs if it is above
2 / learning rate. It is measured, on the probe set, to a factor; nothing certain rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_morse._typing import Loss
from lightning_morse.distributed.errors import Guard, cause, origin
from lightning_morse.distributed.processes import SharedLoss
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.tracking import MAX_PICTURES
from lightning_morse.slices.columns import gram_matrix
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.subspace import AffineSubspace

UNKNOWN = 0.0
# The critical step is looked for between the displacement over and times this power of four, which
# takes so many evaluations at most; then it is halved in on so often. Only accuracy depends on it.
_RANGE, _BISECTIONS = 6, 4
MOST_EVALUATIONS = _RANGE + 1 + _BISECTIONS


def critical_step(loss: Callable[[float], float], here: float) -> float:
    """How far to go, in steps of 1, until the loss is above that at 0.

    Args:
        loss: The loss after so many steps.
        here: The loss at 0.

    Returns:
        Within 5 % of the place where the loss passes ``here``, if it does so once; NaN if it is
        above at 1/4096 already or not yet at 4096.

    Example:
        >>> round(critical_step(lambda s: s * (s - 3), 0.0), 1)
        3.0
    """

    def climbs(step: float) -> bool:
        return not loss(step) <= here  # NaN is above

    first = climbs(1.0)
    factor, step = (0.25 if first else 4.0), 1.0
    for _ in range(_RANGE):
        before, step = step, step * factor
        if climbs(step) != first:
            break
    else:
        return math.nan
    low, high = min(before, step), max(before, step)
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if climbs(middle) else (middle, high)
    return math.sqrt(low * high)


@dataclass(frozen=True, eq=False)
class _Line:
    """The line on which weights have moved last.

    Attributes:
        along: From the current weights on.
        length: Of the displacement.
        time: Learning rates, summed over its steps.
    """

    along: AffineSubspace
    length: float
    time: float


def critical_sharpness(
    record: RunRecord,
    weights: Callable[[], Tensor],
    slice_on: Callable[[AffineSubspace], LossSlice],
    meter: Meter,
    warn: Callable[[str, str], None],
    most: float = math.inf,
) -> float:
    """The critical sharpness along the last displacement of a run; all processes call it together.

    Args:
        record: What is kept of the run.
        weights: Gives the current weights, shape ``(p,)``.
        slice_on: Makes the loss of this process on a subspace.
        meter: Takes the time of evaluations, and says whether there is time for them.
        warn: Takes a message and what identifies its cause.
        most: Most evaluations of the analysis, those that the meter has counted included.

    Returns:
        0 where it is not known: weights are sharded, there is no time, memory or evaluation left
        for it, learning rates are not known, or the loss does not fall, or falls for very long.
    """
    processes, line = record.processes, None

    def begin() -> AffineSubspace | None:
        nonlocal line
        n = MOST_EVALUATIONS + 1  # one at the weights
        if meter.n_evaluations + n <= most and meter.affords(n):
            line = _last_line(record, weights)
        if line is None:
            return None
        # Tensors on an accelerator would arrive on the sender's.
        return line.along if processes.size == 1 else line.along.to("cpu")

    if record.sharded or processes.share(record.plan.slices) < MAX_PICTURES:
        return UNKNOWN
    along = processes.first(begin)
    if along is None:
        return UNKNOWN
    try:
        loss = processes.each(lambda: slice_on(along))
    except OutOfTimeError:
        return UNKNOWN
    shared = SharedLoss(loss, lambda: loss.n_examples, processes)

    def told(error: Exception) -> None:
        warn(f"no critical sharpness ({cause(error)})", origin(error))

    def find() -> float:
        assert line is not None, "only the first process looks, and it has the line"
        found = UNKNOWN
        with Guard(told):  # a failure here is no failed analysis
            found = _measured(meter.of(shared), line)
        return found

    return shared.explore(find)


def _measured(loss: Loss, line: _Line) -> float:
    def after(steps: float) -> float:
        return float(loss(torch.tensor([[steps * line.length]], dtype=torch.float64))[0])

    here = after(0.0)
    found = critical_step(after, here) if math.isfinite(here) else math.nan
    return 2 / (found * line.time) if math.isfinite(found) else UNKNOWN


def _last_line(record: RunRecord, weights: Callable[[], Tensor]) -> _Line | None:
    """The line from the last snapshot of other weights to the current ones, and beyond."""
    times, now = record.time.of(record.trajectory), record.time.now
    earlier = [k for k, time in enumerate(times) if time < now]
    if not earlier:
        return None
    here = weights()
    before = record.trajectory.snapshots()[earlier[-1]]
    way = here - before.to(here)
    # In place: large networks leave no room for another copy.
    length = math.sqrt(float(gram_matrix(way[:, None])))
    if not 0 < length < math.inf:
        return None
    along = way.div_(length)[:, None]
    return _Line(AffineSubspace(here, along), length, now - float(times[earlier[-1]]))

"""The mean of those sets of weights that are certainly connected, and its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.files.atomic import written_whole
from lightning_morse.mode_connectivity.pipeline import connectivity
from lightning_morse.mode_connectivity.record import APART, Connectivity
from lightning_morse.slices.given_vectors import Weights, state_in
from lightning_morse.slices.parameters import trainable_parameters

# What a checkpoint of Lightning says of the training of one set; of a mean there is none.
_OF_TRAINING = (
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "callbacks",
    "MixedPrecision",
    "native_amp_scaling_state",
)
# Where a checkpoint says whose mean it is.
MEMBERS_KEY = "lightning_morse_mean_of"


@dataclass(frozen=True, eq=False)
class Average:
    """The mean of some sets of weights.

    Attributes:
        record: The barriers between all sets.
        members: Numbers of the sets in the mean.
        left_out: Why each other set is left out, by its number.
        loss: The loss at the mean.
        checkpoint: The mean in the form of the first member: a checkpoint of Lightning, a state
            dict or a flat tensor.
    """

    record: Connectivity
    members: tuple[int, ...]
    left_out: Mapping[int, str]
    loss: float
    checkpoint: Tensor | Mapping[str, Any]

    @property
    def gains(self) -> dict[int, float]:
        """By how much the loss at the mean is below that of each member."""
        return {i: float(self.record.losses[i]) - self.loss for i in self.members}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint by :func:`torch.save`, in whole or not at all."""
        with written_whole(path) as file:
            torch.save(self.checkpoint, file)


def average(
    module: nn.Module,
    batches: Iterable[Any],
    weights: Sequence[Weights],
    *,
    loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
    tolerance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Average:
    """Average the sets of weights of which every pair is certainly connected.

    Those are the first group of :attr:`Connectivity.groups`: a largest one, of several that with
    the least mean loss. That all pairs are connected says nothing certain of the mean of three or
    more, so the loss there is evaluated. Running statistics are recomputed on the batches at the
    mean, and are part of its checkpoint. Frozen parameters are shared; buffers, and whatever else
    the checkpoint holds, are those of the first member, without the states of its training.

    Args:
        module: As in :func:`lightning_morse.connectivity`, with all that follows.
        batches: As there.
        weights: As there.
        loss_fn: As there.
        tolerance: As there.
        confidence: As there.
        seed: As there.

    Returns:
        The mean.

    Raises:
        ValueError: As there, or if no two sets are certainly connected.
    """
    record = connectivity(
        module,
        batches,
        weights,
        loss_fn=loss_fn,
        tolerance=tolerance,
        confidence=confidence,
        seed=seed,
    )
    members = record.groups[0]
    left_out = {
        i: _why_left_out(record, i, members)
        for i in range(len(record.names))
        if i not in members or len(members) == 1
    }
    if len(members) == 1:
        reasons = "".join(f"\n  {record.names[i]}: {why}" for i, why in left_out.items())
        raise ValueError(
            f"no two sets are certainly connected, so there is nothing to average:{reasons}\n"
            "Give sets from one run, or from the same start, or a larger tolerance"
        )
    landscape = record.landscape
    assert landscape is not None  # it was not read from a file
    flats = landscape.given.flats
    mean = torch.stack([flats[i].double() for i in members]).mean(dim=0).to(flats[0].dtype)
    loss = landscape.loss(mean)
    statistics = landscape.loss.statistics(mean)
    names = [record.names[i] for i in members]
    like = landscape.given.checkpoints[members[0]]
    checkpoint = _in_form_of(like, module, mean, statistics, names)
    return Average(record, members, left_out, loss, checkpoint)


def _why_left_out(record: Connectivity, i: int, members: Sequence[int]) -> str:
    """Why a set is not in a group: the pair that speaks most against it."""
    others = [m for m in members if m != i] or [n for n in range(len(record.names)) if n != i]
    worst = max(others, key=lambda m: (record.verdict(i, m) == APART, record.barriers[i, m]))
    verdict, low, high = record.verdict(i, worst), record.lower[i, worst], record.upper[i, worst]
    if verdict == APART:
        bound = f"a barrier of at least {low:.3g}"
    elif high > record.tolerance:
        bound = f"a barrier between {low:.3g} and {high:.3g}"
    else:  # connected with all of these, which belong to another group
        return "belongs to another group"
    return f"{verdict} with {record.names[worst]}: {bound}, {record.tolerance:.3g} is tolerated"


def _in_form_of(
    like: Tensor | Mapping[str, Any],
    module: nn.Module,
    mean: Tensor,
    statistics: Mapping[str, Tensor],
    members: Sequence[str],
) -> Tensor | Mapping[str, Any]:
    """Weights in the form of a checkpoint."""
    state = state_in(like)
    if isinstance(like, Tensor) or isinstance(state, Tensor):
        return mean
    new = dict(state)
    trainable = trainable_parameters(module)
    sizes = [p.numel() for _, p in trainable]
    parts = dict(zip((id(p) for _, p in trainable), torch.split(mean, sizes), strict=True))
    # Tied weights stand in a state dict under each of their names.
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in new and id(parameter) in parts:
            new[name] = parts[id(parameter)].reshape(parameter.shape).to(new[name].dtype).clone()
    for name, value in statistics.items():
        if name in new:
            new[name] = value.to(new[name].dtype)
    if state is like:
        return new
    kept = {k: v for k, v in like.items() if k not in _OF_TRAINING}
    return {**kept, "state_dict": new, MEMBERS_KEY: list(members)}

"""Sets of weights as they are given: flat, checked, with what they share besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.mode_connectivity.point_loss import recomputed_layers
from lightning_morse.slices.given_vectors import (
    Weights,
    check_numbers,
    flat_weights,
    listed,
    read_checkpoint,
    state_in,
)
from lightning_morse.slices.parameters import trainable_parameters


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """Two or more sets of weights of one network.

    Attributes:
        names: What to call them: the name of a file, or their number.
        flats: The trainable weights of each, shape ``(p,)``, on the CPU.
        kept: Frozen parameters and buffers by name, which a line does not move.
        checkpoints: What was given or read.
        notes: What to tell the user.
    """

    names: tuple[str, ...]
    flats: tuple[Tensor, ...]
    kept: Mapping[str, Tensor]
    checkpoints: tuple[Tensor | Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def same(self, i: int, j: int) -> bool:
        """Whether two sets hold the same trainable weights."""
        return torch.equal(self.flats[i], self.flats[j])


def given_weights(module: nn.Module, weights: Sequence[Weights]) -> GivenWeights:
    """Read and check sets of weights.

    Args:
        module: The network they belong to.
        weights: At least two: flat tensors of the trainable weights, state dicts, checkpoints of
            Lightning, or paths of these.

    Raises:
        ValueError: If there are fewer than two, one cannot be read, does not fit the module, is
            not finite or holds no floating-point numbers, the module has complex weights or none in
            memory, or they differ in frozen parameters, or in nothing but buffers.
    """
    given = listed(weights, "weights")
    if len(given) < 2:
        raise ValueError(
            f"weights must hold at least two sets of weights to compare, got {len(given)}"
        )
    trainable = dict(trainable_parameters(module))
    _check_real(trainable)
    names = tuple(_named(one, i) for i, one in enumerate(given))
    called = [
        f"weights[{i}]" + (f" ({name})" if name != str(i) else "") for i, name in enumerate(names)
    ]
    found = [read_checkpoint(one, name) for one, name in zip(given, called, strict=True)]
    flats = tuple(
        _checked(state_in(one), name, trainable) for one, name in zip(found, called, strict=True)
    )
    states = {
        name: state
        for name, one in zip(called, found, strict=True)
        if isinstance(state := state_in(one), Mapping)
    }
    kept, notes = _kept(module, states, set(trainable), _all_same(flats))
    notes += _unused(module, states)
    notes += [
        f"{called[i]} and {called[j]} are identical"
        for j in range(len(flats))
        for i in range(j)
        if torch.equal(flats[i], flats[j])
    ]
    return GivenWeights(names, flats, kept, tuple(found), tuple(notes))


def _check_real(trainable: Mapping[str, Tensor]) -> None:
    for name, parameter in trainable.items():
        if parameter.is_meta:
            raise ValueError(
                f"module must have weights in memory, got {name!r} on the meta device. Make it on "
                "the device of the batches"
            )
        if parameter.is_complex():
            raise ValueError(
                f"module must have real weights, got {parameter.dtype} in {name!r}. Lines between "
                "complex weights are not evaluated; hold their two parts as parameters"
            )


def _unused(module: nn.Module, states: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Notes on entries of sets that nothing in the module has the name of."""
    own = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    own |= {n for n, _ in module.named_buffers(remove_duplicate=False)}
    notes = []
    for called, state in states.items():
        extra = [k for k in state if k not in own and not str(k).endswith("_extra_state")]
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            notes.append(f"{called} has {extra[0]!r}{more}, which the module has not: not used")
    return notes


def _named(one: Any, i: int) -> str:
    return str(i) if isinstance(one, Tensor | Mapping) else str(one)


def _all_same(flats: Sequence[Tensor]) -> bool:
    return all(torch.equal(flats[0], other) for other in flats[1:])


def _checked(state: Any, name: str, trainable: Mapping[str, Tensor]) -> Tensor:
    try:
        flat = flat_weights(state, name, trainable)
    except ValueError as error:
        raise ValueError(
            f"{error}. All sets must be weights of the module that is given, with its architecture "
            "and the names of its parameters"
        ) from error
    if not torch.isfinite(flat).all():
        bad = ~torch.isfinite(flat)
        sizes = [p.numel() for p in trainable.values()]
        parts = zip(trainable, torch.split(bad, sizes), strict=True)
        where = next(key for key, part in parts if part.any())
        raise ValueError(
            f"{name} must be finite, got NaN or infinite weights in {where!r}, {int(bad.sum())} in "
            "all. Use a checkpoint from before the run diverged"
        )
    return flat


def _kept(
    module: nn.Module, states: Mapping[str, Mapping[str, Tensor]], trainable: set[str], same: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Frozen parameters and buffers that all sets share, and what to tell of those they do not.

    A flat tensor has none: those of the module are used for it.
    """
    recomputed = set(recomputed_layers(module))
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
    buffers = {n: b for n, b in module.named_buffers() if n.rpartition(".")[0] not in recomputed}
    own = {**dict(module.named_parameters()), **buffers}
    kept: dict[str, Tensor] = {}
    differing = []
    for name in [*frozen, *buffers]:
        values = {k: s[name] for k, s in states.items() if isinstance(s.get(name), Tensor)}
        if not values:
            continue
        first, *others = values.items()
        if first[1].shape != own[name].shape:
            raise ValueError(
                f"{first[0]}[{name!r}] must have shape {tuple(own[name].shape)} as in the module, "
                f"got {tuple(first[1].shape)}. All sets must be weights of this architecture"
            )
        for called, value in values.items():
            check_numbers(value, f"{called}[{name!r}]", own[name], integers=True)
        kept[name] = first[1]
        for called, value in others:
            if not (value.shape == first[1].shape and _equal(value, first[1])):
                differing.append((name, first[0], called))
                break
    wrong = next((d for d in differing if d[0] in frozen), None)
    if wrong is not None or (same and differing):
        name, one, other = wrong or differing[0]
        kind = "frozen parameter" if wrong else "buffer"
        only = " and in no trainable weight" if same else ""
        change = (
            "Unfreeze it with requires_grad_(True), so that the line moves it"
            if wrong
            else "There is no line between them; give sets whose trainable weights differ"
        )
        raise ValueError(f"{one} and {other} differ in the {kind} {name!r}{only}. {change}")
    notes = [
        f"buffer {name!r} differs between {one} and {other}: everywhere its value is that of {one}"
        for name, one, other in differing
    ]
    if recomputed:
        n = len(recomputed)
        notes.append(
            f"running statistics of {n} layer{'s' * (n > 1)} were recomputed on the batches at "
            "each point"
        )
    return kept, notes


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether tensors hold the same values, wherever they are; NaN equals NaN."""
    a, b = (t.detach().cpu() for t in (a, b))
    if a.layout != torch.strided:  # torch compares dense tensors only
        a, b = a.to_dense(), b.to_dense()
    if a.is_floating_point() and b.is_floating_point():
        return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    return torch.equal(a, b)

"""Directions and weights that a user gave, checked against a network and made flat."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_morse.slices.bases import orthonormal_columns

Weights: TypeAlias = Tensor | Mapping[str, Tensor] | str | os.PathLike[str]
Vectors: TypeAlias = Tensor | Sequence[Tensor | Mapping[str, Tensor]]


def listed(given: Any, name: str) -> list[Any]:
    """The elements of a sequence that is neither a mapping nor a path.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(given, Mapping | str | os.PathLike) or not hasattr(given, "__len__"):
        raise ValueError(f"{name} must be a sequence, got {type(given).__name__}")
    return list(given)


def direction_vectors(directions: Any, dim: int) -> list[Any]:
    """The given directions, one element each.

    Raises:
        ValueError: If there are not ``dim`` of them, or a tensor does not have two axes.
    """
    if isinstance(directions, Tensor) and directions.ndim != 2:
        raise ValueError(
            "directions must have shape (p, dim), one direction per column, got shape "
            f"{tuple(directions.shape)}"
        )
    vectors = listed(directions.T if isinstance(directions, Tensor) else directions, "directions")
    if len(vectors) != dim:
        raise ValueError(
            f"directions must be dim = {dim} vectors, got {len(vectors)}. Set dim={len(vectors)} "
            "or give others"
        )
    return vectors


def orthonormal_directions(vectors: Sequence[Any], parameters: Mapping[str, Tensor]) -> Tensor:
    """Given directions as orthonormal columns, shape ``(p, dim)``, on the CPU.

    Args:
        vectors: Flat tensors, or mappings from parameter names to tensors; parameters missing from
            a mapping do not move.
        parameters: The trainable parameters by name, in order.

    Raises:
        ValueError: If one does not fit the parameters, is zero or not finite, or they are
            collinear.
    """
    flat = [
        _flat(v, parameters, f"directions[{i}]", is_direction=True) for i, v in enumerate(vectors)
    ]
    return orthonormal_columns(flat, name="directions")


def checkpoint_weights(checkpoint: Weights, i: int, parameters: Mapping[str, Tensor]) -> Tensor:
    """The trainable weights of a checkpoint, flat, on the CPU.

    Args:
        checkpoint: A flat tensor, a state dict (entries that are not trainable are skipped), a
            checkpoint of Lightning, or the path of one of these.
        i: Its place among the checkpoints, for messages.
        parameters: The trainable parameters by name, in order.

    Raises:
        ValueError: If it cannot be read or does not fit the parameters.
    """
    name = f"checkpoints[{i}]"
    return flat_weights(state_in(read_checkpoint(checkpoint, name)), name, parameters)


def read_checkpoint(given: Weights, name: str) -> Tensor | Mapping[str, Any]:
    """Read a checkpoint if it is a path; whatever else is given is passed on.

    Args:
        given: As in :func:`checkpoint_weights`.
        name: What to call it in messages.

    Raises:
        ValueError: If it cannot be read.
    """
    if not isinstance(given, str | os.PathLike):
        return given
    if os.path.isdir(given):
        raise ValueError(
            f"{name} must be a file with whole weights, got the folder {str(given)!r}, as sharded "
            "checkpoints are. Consolidate it to one file first"
        )
    try:
        found: Tensor | Mapping[str, Any] = torch.load(given, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can raise anything in the unpickler
        raise ValueError(
            f"{name} must be a file that torch.load(..., weights_only=True) reads, "
            f"got {str(given)!r}: {error}. Load it yourself and pass its state dict"
        ) from error
    return found


def state_in(checkpoint: Tensor | Mapping[str, Any]) -> Tensor | Mapping[str, Tensor]:
    """The state dict in a checkpoint of Lightning; whatever else is given is passed on."""
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        inside: Mapping[str, Tensor] = checkpoint["state_dict"]
        return inside
    return checkpoint


def flat_weights(given: Any, name: str, parameters: Mapping[str, Tensor]) -> Tensor:
    """The trainable weights in a flat tensor or a state dict, flat, on the CPU.

    Args:
        given: The tensor or the state dict; entries that are not trainable are skipped.
        name: What to call it in messages.
        parameters: The trainable parameters by name, in order.

    Raises:
        ValueError: If it does not fit the parameters.
    """
    return _flat(given, parameters, name, is_direction=False)


def check_numbers(given: Tensor, name: str, like: Tensor, *, integers: bool) -> None:
    """Refuse a tensor whose entries cannot stand for those of a tensor of the network.

    Args:
        given: The tensor.
        name: What to call it.
        like: The tensor of the network, or one of its type.
        integers: Whether integers and truth values will do.

    Raises:
        ValueError: If it has no entries in memory, holds them in another layout, or they are of
            another kind.

    Example:
        >>> check_numbers(torch.ones(2), "weights[0]", torch.zeros(2), integers=False)
    """
    numbers = "numbers" if integers else "floating-point numbers"
    if given.is_meta:
        got, change = "a meta tensor, which holds none", "Load the weights themselves"
    elif given.layout != like.layout or given.is_quantized or given.is_nested:
        kind = "quantized" if given.is_quantized else f"{given.layout}".removeprefix("torch.")
        got, change = f"a tensor of another form ({kind})", "Make it dense first"
    elif given.is_complex() and not like.is_complex():
        got, change = f"{given.dtype}", "Give its real part, if that is meant"
    elif not integers and not (given.is_floating_point() or given.is_complex()):
        got, change = f"{given.dtype}", "Convert it with .float(), if these are weights"
    else:
        return
    raise ValueError(f"{name} must hold {numbers} as the module does, got {got}. {change}")


def _flat(given: Any, parameters: Mapping[str, Tensor], name: str, *, is_direction: bool) -> Tensor:
    """Check one weight vector against the network and return it flat, on the CPU.

    In a direction, missing names count as zero and unknown ones are refused. In a state dict,
    missing names are refused and others skipped: they belong to buffers or frozen parameters.
    """
    n_parameters = sum(t.numel() for t in parameters.values())
    # In the precision of the network: vectors it cannot tell apart count as identical.
    dtype = torch.promote_types(torch.float32, next(iter(parameters.values())).dtype)
    if isinstance(given, Tensor):
        if given.shape != (n_parameters,):
            raise ValueError(
                f"{name} must be flat, with one entry for each of the {n_parameters} trainable "
                f"weights of the module in the order of its parameters(), got shape "
                f"{tuple(given.shape)}"
            )
        check_numbers(given, name, torch.empty(0, dtype=dtype), integers=is_direction)
        return given.detach().cpu().to(dtype)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{name} must be a flat tensor or a mapping from parameter names to tensors, got "
            f"{type(given).__name__}"
        )
    extra, missing = set(given) - set(parameters), set(parameters) - set(given)
    wrong = sorted(extra if is_direction else missing)
    if wrong:
        raise ValueError(
            f"{name} {'has' if is_direction else 'lacks'} {wrong[0]!r}, which is "
            f"{'not ' if is_direction else ''}a trainable parameter of the module"
        )
    parts = []
    for key, parameter in parameters.items():
        part = given.get(key, torch.zeros(()).expand(parameter.shape))
        if not isinstance(part, Tensor) or part.shape != parameter.shape:
            raise ValueError(
                f"{name}[{key!r}] must be a tensor of shape {tuple(parameter.shape)} like the "
                f"parameter, got {tuple(part.shape) if isinstance(part, Tensor) else part!r}"
            )
        check_numbers(part, f"{name}[{key!r}]", parameter, integers=is_direction)
        parts.append(part.detach().cpu().to(dtype).reshape(-1))
    return torch.cat(parts)

"""The trainable weights of a network, as one vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_morse.slices.columns import working_dtype


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate weights into one vector.

    Args:
        tensors: Parameters of any shapes, in order; at least one.

    Returns:
        A detached copy, shape ``(p,)``, on the device of the first; half precision becomes float32.
        A complex entry counts as two, its real and its imaginary part.

    Raises:
        ValueError: If there are no tensors.

    Example:
        >>> flatten([torch.eye(2), torch.tensor([5.0])]).tolist()
        [1.0, 0.0, 0.0, 1.0, 5.0]
    """
    if not tensors:
        raise ValueError("tensors must hold at least one parameter, got none")
    flat = torch.cat([as_real(t.detach()).reshape(-1).to(tensors[0].device) for t in tensors])
    return flat.to(working_dtype(flat.dtype))


def as_real(tensor: Tensor) -> Tensor:
    """View a complex tensor with one more axis, for real and imaginary part; others as they are."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def count_of_weights(tensors: Iterable[Tensor]) -> int:
    """Number of real numbers in the given tensors."""
    return sum(t.numel() * (2 if t.is_complex() else 1) for t in tensors)


def has_lazy_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters that only its first forward pass initialises."""
    return any(map(is_lazy, module.parameters()))


def trainable_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that span weight space, in the order of ``module.named_parameters()``.

    Args:
        module: Any module.

    Returns:
        Name and parameter of each that requires a gradient; tied weights once.

    Raises:
        ValueError: If there are none, or a parameter is not initialised yet.

    Example:
        >>> [name for name, _ in trainable_parameters(torch.nn.Linear(2, 1))]
        ['weight', 'bias']
    """
    named = list(module.named_parameters())
    for name, parameter in named:
        if is_lazy(parameter):
            raise ValueError(
                f"module must be initialised, got a lazy parameter {name!r}. Run one forward pass "
                "first"
            )
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            f"module must have at least one parameter that requires a gradient, got "
            f"{type(module).__name__} with {len(named)} parameters and none that does. Unfreeze one"
        )
    return trainable


def parts_of_weights(module: nn.Module) -> list[Tensor]:
    """The trainable weights as vectors which, one after the other, are :func:`flat_parameters`.

    Those of a module on the CPU are views as far as they can be. From an accelerator they come as
    one, since each transfer takes its time.

    Args:
        module: Any module with trainable parameters.

    Returns:
        Detached vectors, in the types of the weights; to be copied before the next step.

    Raises:
        ValueError: As :func:`trainable_parameters`.
    """
    weights = [parameter.detach() for _, parameter in trainable_parameters(module)]
    if any(weight.device.type != "cpu" for weight in weights):
        return [flatten(weights)]
    return [as_real(weight).reshape(-1) for weight in weights]


def flat_parameters(module: nn.Module) -> Tensor:
    """The trainable weights as one vector.

    Args:
        module: Any module with trainable parameters.

    Returns:
        A detached copy, shape ``(p,)``, in the order of :func:`trainable_parameters`; at least
        float32.

    Raises:
        ValueError: As :func:`trainable_parameters`.
    """
    return flatten([parameter for _, parameter in trainable_parameters(module)])

"""Finding the stack of linear layers in a module, and how much of the module it accounts for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse._typing import Array
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

# Where the forward method of a module without one of its own is defined.
_INHERITED_FORWARD = ("torch.nn.modules.module", "pytorch_lightning.", "lightning.pytorch.")


@dataclass(frozen=True)
class LinearStack:
    r"""The linear layers of a module, and how well they alone reproduce its output on a batch.

    Attributes:
        names: Names of the ``nn.Linear`` layers as in ``module.named_modules()``, in the order of
            their calls.
        score: Coefficient of determination :math:`1 - \sum |f(x) - g(x)|^2 / \sum |f(x) - \bar
            f|^2` of the outputs ``f`` of the module by those ``g`` of the bare layers, clipped at
            0; it is 1 for a stack of linear layers.
        reason: Why the layers do not form a stack; empty if they do.
        inputs: Inputs of the first layer, shape ``(m, n_0)``.
        outputs: Outputs of the module, shape ``(m, n_L)``.
    """

    names: tuple[str, ...]
    score: float
    reason: str
    inputs: Tensor
    outputs: Tensor


def on_a_copy(module: nn.Module, batch: Any, function: Callable[[Any, Any], Tensor]) -> float:
    """Evaluate ``function(copy of module, batch)`` at the weights of the module, as a slice does.

    The run itself is not touched: see :class:`lightning_morse.slices.loss_slice.LossSlice`.

    Args:
        module: Any module with trainable parameters.
        batch: Passed on to the function.
        function: Returns a tensor with one element.
    """
    weights = flat_parameters(module)
    direction = torch.zeros_like(weights)
    direction[0] = 1
    here = AffineSubspace(weights, direction[:, None])
    with closing(LossSlice(module, here, [batch], function)) as loss:
        return float(loss(torch.zeros(1, 1))[0])


def linear_stack(module: nn.Module, batch: Any, network: str | None = None) -> LinearStack:
    """Run a copy of a module on a batch and find the linear layers it consists of.

    Args:
        module: A module; a LightningModule without ``forward`` must have one child that holds all
            parameters.
        batch: Inputs, or a sequence that begins with them.
        network: Name of the submodule to run instead.

    Returns:
        The stack; its score is 0, with a reason, if the layers are not applied one after another.

    Raises:
        ValueError: If there is no network to run.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1))
        >>> stack = linear_stack(net, torch.eye(2))
        >>> stack.names, round(stack.score, 6)
        (('0', '2'), 1.0)
    """
    found: list[LinearStack] = []

    def run(copy: nn.Module, given: Any) -> Tensor:
        found.append(observe(copy, given, network))
        return torch.zeros(())

    on_a_copy(module, batch, run)
    return found[0]


def first_part(batch: Any) -> Any:
    """The inputs in a batch: its first part if it has parts."""
    return batch[0] if isinstance(batch, Sequence) else batch


def layers_at(module: nn.Module, names: Sequence[str]) -> tuple[list[Array], list[Array | None]]:
    """Weights and biases of linear layers as float64 arrays; None for a layer without bias."""
    linears: list[Any] = [module.get_submodule(name) for name in names]
    weights = [_array(layer.weight) for layer in linears]
    return weights, [None if layer.bias is None else _array(layer.bias) for layer in linears]


def observe(module: nn.Module, batch: Any, network: str | None) -> LinearStack:
    """Run a module on a batch and compare its output with that of its linear layers.

    Args:
        module: The module; it is run as it is, so pass a copy.
        batch: As in :func:`linear_stack`.
        network: As in :func:`linear_stack`.
    """
    inner, prefix = _network_of(module, network)
    output, calls = _linear_calls(inner, batch)
    names = tuple(prefix + name for name, _, _ in calls)
    nothing = torch.zeros(0, 0)
    if not isinstance(output, Tensor):
        return LinearStack(names, 0.0, "its output is no tensor", nothing, nothing)
    if not calls:
        return LinearStack((), 0.0, "it has no linear layers", nothing, nothing)
    inputs = calls[0][1].flatten(0, -2) if calls[0][1].ndim > 1 else calls[0][1][None]
    outputs = output.reshape(len(inputs), -1) if output.numel() % len(inputs) == 0 else nothing
    reason = "a linear layer runs twice" if len(set(names)) < len(names) else ""
    mapped = inputs.double()
    for name, (_, _, layer) in zip(names, calls, strict=True):
        if layer.in_features != mapped.shape[1]:
            reason = reason or f"layer {name} does not take what the layer before gives"
            break
        bias = None if layer.bias is None else layer.bias.double()
        mapped = torch.nn.functional.linear(mapped, layer.weight.double(), bias)
    if not reason and mapped.shape != outputs.shape:
        reason = "its output is not that of the last linear layer"
    if reason:
        return LinearStack(names, 0.0, reason, inputs, outputs)
    wrong = float((outputs.double() - mapped).square().sum())
    spread = float((outputs.double() - outputs.double().mean(0)).square().sum())
    score = max(0.0, 1 - wrong / spread) if spread > 0 else float(wrong == 0)
    return LinearStack(names, score, "", inputs, outputs)


def _linear_calls(module: nn.Module, batch: Any) -> tuple[Any, list[tuple[str, Tensor, nn.Linear]]]:
    """Output of a module, and name, input and layer of each call of a linear layer."""
    calls: list[tuple[str, Tensor, nn.Linear]] = []
    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):

            def note(layer: Any, args: Any, _: Any, name: str = name) -> None:
                calls.append((name, args[0], layer))

            hooks.append(part.register_forward_hook(note))
    try:
        return module(first_part(batch)), calls
    finally:
        for hook in hooks:
            hook.remove()


def _array(parameter: Tensor) -> Array:
    found: Array = parameter.detach().cpu().double().numpy().copy()
    return found


def _network_of(module: nn.Module, network: str | None) -> tuple[nn.Module, str]:
    if network is not None:
        try:
            return module.get_submodule(network), f"{network}."
        except AttributeError:
            raise ValueError(
                f"network must name a submodule, got {network!r}, which is none of "
                f"{[name for name, _ in module.named_children()]}"
            ) from None
    if not type(module).forward.__module__.startswith(_INHERITED_FORWARD):
        return module, ""
    whole = sum(p.numel() for p in module.parameters())
    for name, child in module.named_children():
        if sum(p.numel() for p in child.parameters()) == whole:
            return child, f"{name}."
    raise ValueError(
        f"network must name the submodule to look at, got None for {type(module).__name__}, which "
        "has no forward and no child with all its parameters"
    )

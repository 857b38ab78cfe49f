"""The stack of linear layers in a module, and how much of the module it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from lightning_morse.deep_linear.network import Array
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

_FORWARD_HOMES = ("torch.nn.modules.module", "pytorch_lightning.", "lightning.pytorch.")


@dataclass(frozen=True)
class LinearStack:
    r"""What a module did to a batch, next to what its linear layers alone would do.

    Attributes:
        names: Names of the ``nn.Linear`` layers in the order in which they ran, as in
            ``module.named_modules()``.
        score: :math:`1 - \sum |f(x) - g(x)|^2 / \sum |f(x) - \bar f|^2` with the outputs ``f`` of
            the module and ``g`` of the bare layers, at least 0: 1 for a stack of linear layers.
        reason: Why the layers are no stack; empty if they are.
        inputs: What the first layer saw, shape ``(m, n_0)``.
        outputs: What came out of the module, shape ``(m, n_L)``.
    """

    names: tuple[str, ...]
    score: float
    reason: str
    inputs: Tensor
    outputs: Tensor


def on_a_copy(module: nn.Module, batch: Any, function: Callable[[Any, Any], Tensor]) -> float:
    """Evaluate ``function(copy of module, batch)`` at the module's weights, as a slice does.

    Nothing of the run is touched: see :class:`lightning_morse.slices.loss_slice.LossSlice`.

    Args:
        module: Any module with trainable parameters.
        batch: What to hand on.
        function: Returns a tensor with one element.
    """
    weights = flat_parameters(module)
    direction = torch.zeros_like(weights)
    direction[0] = 1
    here = AffineSubspace(weights, direction[:, None])
    return float(LossSlice(module, here, [batch], function)(torch.zeros(1, 1))[0])


def linear_stack(module: nn.Module, batch: Any, network: str | None = None) -> LinearStack:
    """Run a copy of a module on a batch and see which linear layers it consists of.

    Args:
        module: A module; a LightningModule without ``forward`` must have one child that holds all
            parameters.
        batch: Inputs, or a sequence that begins with them.
        network: Name of the submodule to run in its place.

    Returns:
        The stack, with a score of 0 and a reason if the layers do not follow one another.

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
        found.append(_observed(copy, given, network))
        return torch.zeros(())

    on_a_copy(module, batch, run)
    return found[0]


def squared_error_factors(
    module: nn.Module,
    batch: Any,
    y: Tensor,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    network: str | None = None,
) -> list[float]:
    """The loss of a module over half its mean squared error, here and at larger weights (by half).

    Two equal numbers say that the loss is that multiple of the squared error: 1 for half of it, 2
    over the width of the output for ``mse_loss``. Other losses, and a penalty on the weights, give
    two different ones.

    Args:
        module: A module.
        batch: A batch.
        y: Its targets, shape ``(m, n_L)``.
        loss_fn: As :class:`~lightning_morse.LossSlice` takes it.
        network: As in :func:`linear_stack`.

    Returns:
        The two ratios; infinite or NaN where the squared error is zero.

    Example:
        >>> net, batch = nn.Linear(1, 2, bias=False), (torch.ones(1, 1), torch.ones(1, 2))
        >>> def loss(net, batch):
        ...     return nn.functional.mse_loss(net(batch[0]), batch[1])
        >>> [round(r, 6) for r in squared_error_factors(net, batch, batch[1], loss)]
        [1.0, 1.0]
    """
    weights = flat_parameters(module)
    size = float(weights.double().norm())
    direction = weights / weights.norm() if size > 0 else torch.eye(1, len(weights)).to(weights)[0]
    line = AffineSubspace(weights, direction[:, None])
    points = torch.tensor([[0.0], [size / 2 or 1.0]], dtype=torch.float64)

    def half(copy: nn.Module, given: Any) -> Tensor:
        wrong = _observed(copy, given, network).outputs.double() - y.double().to(weights.device)
        return wrong.square().sum(1).mean() / 2

    above = LossSlice(module, line, [batch], loss_fn)(points)
    below = LossSlice(module, line, [batch], half)(points)
    return [float(r) for r in above / below]


def first(batch: Any) -> Any:
    """The inputs in a batch: its first part if it has parts."""
    return batch[0] if isinstance(batch, Sequence) else batch


def targets(batch: Any, width: int) -> Tensor:
    """The targets in a batch as rows of numbers: its second part, classes as unit vectors.

    Args:
        batch: A sequence of inputs and targets.
        width: Number ``n_L`` of outputs.

    Returns:
        Shape ``(m, n_L)``.

    Raises:
        ValueError: If there are none, or they do not have that width.

    Example:
        >>> targets((None, torch.tensor([1, 0])), 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    second = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None
    if not isinstance(second, Tensor):
        raise ValueError("batches must be (inputs, targets), got no targets. Pass target_fn(batch)")
    if not second.dtype.is_floating_point and second.ndim == 1 and width > 1:
        if int(second.max()) >= width:
            raise ValueError(
                f"classes must be below the {width} outputs, got {int(second.max())}. Pass "
                "target_fn(batch)"
            )
        return torch.nn.functional.one_hot(second.long(), width).double()
    rows = second.reshape(len(second), -1) if second.ndim else second.reshape(1, 1)
    if rows.shape[1] != width:
        raise ValueError(
            f"targets must have the width {width} of the outputs, got shape {tuple(second.shape)}. "
            "Pass target_fn(batch)"
        )
    return rows


def layers_at(module: nn.Module, names: Sequence[str]) -> tuple[list[Array], list[Array | None]]:
    """Weights and biases of linear layers as float64 arrays, None where there is no bias."""
    linears: list[Any] = [module.get_submodule(name) for name in names]
    weights = [_array(layer.weight) for layer in linears]
    return weights, [None if layer.bias is None else _array(layer.bias) for layer in linears]


def sharpness(
    weights: Sequence[Array],
    biases: Sequence[Array | None],
    xx: Array,
    yx: Array,
    x_mean: Array,
    y_mean: Array,
) -> tuple[float, float]:
    r"""Largest Hessian eigenvalue of half the mean squared error, and the norm of its gradient.

    Gradient descent of step size :math:`\eta` is stable at a minimum only below :math:`2 / \eta`.
    By Lanczos' method on exact Hessian products, to a relative 1e-3.

    Args:
        weights: The layers.
        biases: Their biases, None where there is none.
        xx: :math:`E[x x^\top]`, not centred.
        yx: :math:`E[y x^\top]`, not centred.
        x_mean: :math:`E[x]`.
        y_mean: :math:`E[y]`.

    Example:
        >>> one = np.ones((1, 1))
        >>> value, slope = sharpness([one, 2 * one], [None, None], one, 2 * one, one[0], one[0])
        >>> round(value, 6), slope  # w_1^2 + w_2^2 at the minimum
        (5.0, 0.0)
    """
    moments = [torch.from_numpy(np.asarray(m, dtype=np.float64)) for m in (xx, yx, x_mean, y_mean)]
    parameters = [torch.tensor(p, requires_grad=True) for p in [*weights, *biases] if p is not None]
    others = iter(parameters[len(weights) :])
    offsets = [None if b is None else next(others) for b in biases]
    product = torch.eye(weights[0].shape[1], dtype=torch.float64)
    shift = torch.zeros(weights[0].shape[1], dtype=torch.float64)
    for layer, offset in zip(parameters, offsets, strict=False):
        product, shift = layer @ product, layer @ shift
        shift = shift if offset is None else shift + offset
    s_xx, s_yx, mean_x, mean_y = moments
    loss = ((product @ s_xx) * product).sum() / 2 - (product * s_yx).sum()
    loss = loss + shift @ (product @ mean_x - mean_y) + shift @ shift / 2
    slopes = torch.cat(
        [g.ravel() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
    )
    size = len(slopes)

    def times(vector: Array) -> Array:
        along = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64)).ravel()
        pieces = torch.autograd.grad(slopes @ along, parameters, retain_graph=True)
        return torch.cat([p.ravel() for p in pieces]).numpy()

    slope = float(slopes.detach().norm())
    if size <= 3:
        dense = np.column_stack([times(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh((dense + dense.T) / 2)[-1]), slope
    start = np.random.default_rng(0).normal(size=size)
    values = eigsh(
        LinearOperator((size, size), times, dtype=np.float64),
        k=1,
        which="LA",
        v0=start,
        tol=1e-3,
        return_eigenvectors=False,
    )
    return float(values[0]), slope


def _array(parameter: Tensor) -> Array:
    return parameter.detach().cpu().double().numpy().copy()


def _network_of(module: nn.Module, network: str | None) -> tuple[nn.Module, str]:
    if network is not None:
        try:
            return module.get_submodule(network), f"{network}."
        except AttributeError:
            raise ValueError(
                f"network must name a submodule, got {network!r}, which is none of "
                f"{[name for name, _ in module.named_children()]}"
            ) from None
    if not type(module).forward.__module__.startswith(_FORWARD_HOMES):
        return module, ""
    whole = sum(p.numel() for p in module.parameters())
    for name, child in module.named_children():
        if sum(p.numel() for p in child.parameters()) == whole:
            return child, f"{name}."
    raise ValueError(
        f"network must name the submodule to look at, got None for {type(module).__name__}, which "
        "has no forward and no child with all its parameters"
    )


def _observed(module: nn.Module, batch: Any, network: str | None) -> LinearStack:
    inner, prefix = _network_of(module, network)
    calls: list[tuple[str, Tensor, nn.Linear]] = []
    hooks = []
    for name, part in inner.named_modules():
        if isinstance(part, nn.Linear):

            def note(layer: Any, args: Any, _: Any, name: str = name) -> None:
                calls.append((prefix + name, args[0], layer))

            hooks.append(part.register_forward_hook(note))
    try:
        output = inner(first(batch))
    finally:
        for hook in hooks:
            hook.remove()
    names = tuple(name for name, _, _ in calls)
    nothing = torch.zeros(0, 0)
    if not isinstance(output, Tensor):
        return LinearStack(names, 0.0, "its output is no tensor", nothing, nothing)
    if not calls:
        return LinearStack((), 0.0, "it has no linear layers", nothing, nothing)
    inputs = calls[0][1].flatten(0, -2) if calls[0][1].ndim > 1 else calls[0][1][None]
    outputs = output.reshape(len(inputs), -1) if output.numel() % len(inputs) == 0 else nothing
    reason = ""
    if len(set(names)) < len(names):
        reason = "a linear layer runs twice"
    mapped = inputs.double()
    for name, _, layer in calls:
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

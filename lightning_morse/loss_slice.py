"""The loss of a network on an affine subspace of its weights.

Everything is evaluated on a shadow copy: the network that is being trained is only ever read.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from lightning_morse.shadow import ModuleState, shadow_copy, tensors_in
from lightning_morse.subspace import AffineSubspace, flatten

_HOOK_HOMES = ("pytorch_lightning.core.", "lightning.pytorch.core.")


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


class ShadowLoss:
    r"""The mean loss of a shadow copy of a network on a fixed probe set.

    Every evaluation starts from the same buffers and attributes, the batches from the same
    contents, and the global random number generators of torch (CPU and CUDA), NumPy and Python from
    ``seed`` (common random numbers); keeping those of the run is up to the caller
    (:func:`preserved_random_state`). The copy is in eval mode and in float32 or better (a module in
    half precision is converted, its batches too).

    Args:
        module: The network; read once, at construction, and never changed.
        batches: The probe set, on the device of the module. Batch ``b`` has weight ``n_b``, the
            leading length of the first tensor in it, or 1 if it holds none.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.
        copy_of: Makes the shadow copy.

    Attributes:
        module: The shadow copy.
        batches: The probe set.
        weights: The parameters of the copy that belong to trainable ones of the network, in order.
        n_examples: Number of examples in the probe set.
        promoted: Whether batches in half precision are converted.

    Raises:
        ValueError: If nothing is trainable, there are no batches, a batch is empty, or the module
            cannot be copied (:func:`shadow_copy`).
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
        copy_of: Callable[[nn.Module], nn.Module] = shadow_copy,
    ) -> None:
        trainable_parameters(module)
        trains = [p.requires_grad for p in module.parameters()]
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        if not batches:
            raise ValueError("batches must hold at least one probe batch, got none")
        self.batches = tuple(batches)
        self._sizes = [_batch_size(batch) for batch in self.batches]
        if 0 in self._sizes:
            raise ValueError(
                f"batches[{self._sizes.index(0)}] must not be empty, got a leading length of 0. "
                "Leave it out"
            )
        self.n_examples = sum(self._sizes)
        self._loss_fn = loss_from_steps if loss_fn is None else loss_fn
        self._seed = seed
        with torch.inference_mode(False), torch.no_grad():
            self.module = copy_of(module)
            self.promoted = any(map(_is_half, self.module.parameters()))
            if self.promoted:
                self.module.float()
            self._state = ModuleState(self.module)
        self.weights = [
            p for p, trained in zip(self.module.parameters(), trains, strict=True) if trained
        ]

    def reset(self) -> None:
        """Put the copy and the global generators where every evaluation starts."""
        self._state.restore()
        _seed_everything(self._seed)

    def parts(self) -> Iterator[tuple[float, Tensor]]:
        """Loss and share of each batch, in turn; the mean loss is the sum of their products.

        Raises:
            ValueError: If ``loss_fn`` does not return a tensor with one element. Its other errors
                pass through.
        """
        for size, batch in zip(self._sizes, self.batches, strict=True):
            loss = self._loss_fn(self.module, self._fresh_batch(batch))
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError(
                    f"loss_fn must return a tensor with one element, got {_described(loss)}. "
                    "Return the mean loss of the batch"
                )
            yield size / self.n_examples, loss

    def _fresh_batch(self, batch: Any) -> Any:
        if type(batch) in (list, tuple) and all(type(leaf) is Tensor for leaf in batch):
            return type(batch)([self._fresh(leaf) for leaf in batch])  # much faster than a tree
        return tree_map(self._fresh, batch)

    def _fresh(self, leaf: Any) -> Any:
        """Copy a part of a batch: what a step does to its batch in place ends with the step."""
        if not isinstance(leaf, Tensor):
            return copy.deepcopy(leaf)
        return leaf.float() if self.promoted and _is_half(leaf) else leaf.clone()


class LossSlice:
    r"""The mean loss on a fixed probe set as a function on an affine subspace of weight space.

    .. math:: \ell(x) = \frac{1}{\sum_b n_b} \sum_b n_b \, L(\theta_c + D x; \text{batch}_b)

    It is a function: at every point the shadow copy starts from the same buffers and attributes,
    the batches from the same contents, and the global random number generators from ``seed``
    (:class:`ShadowLoss`). Those generators are restored afterwards, whatever happens. Memory does
    not grow with the number of points.

    The evaluation is in eval mode, without gradients, without autocast and in float32 or better. A
    loss that needs gradients of its own must ask for them with ``torch.enable_grad()``. Weights
    that are frozen, and buffers, are those at construction; a step that writes to frozen weights
    finds at the next point what it wrote.

    Args:
        module: The network; read once, at construction, and never changed.
        subspace: Where to evaluate, with as many weights as ``module`` has trainable ones.
        batches: The probe set, on the device of the module. Batch ``b`` has weight ``n_b``, the
            leading length of the first tensor in it, or 1 if it holds none.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.

    Raises:
        ValueError: If the subspace does not fit the module, there are no batches, a batch is empty,
            or the module cannot be copied (:func:`shadow_copy`).

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> line = AffineSubspace(torch.tensor([2.0]), torch.tensor([[1.0]]))
        >>> loss = LossSlice(layer, line, [torch.ones(4, 1)], lambda net, x: net(x).square().mean())
        >>> loss(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).tolist()
        [4.0, 9.0]
    """

    def __init__(
        self,
        module: nn.Module,
        subspace: AffineSubspace,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        n_weights = self._count(module)
        if subspace.n_parameters != n_weights:
            raise ValueError(
                f"subspace must have one entry for each of the {n_weights} trainable weights of "
                f"module, got {subspace.n_parameters}. Build it from flat_parameters(module)"
            )
        self.subspace = subspace
        self.seed = seed
        self._loss = ShadowLoss(module, batches, loss_fn, seed, self._copy)
        with torch.inference_mode(False), torch.no_grad():
            self._bind()

    @property
    def n_examples(self) -> int:
        """Number of examples in the probe set."""
        return self._loss.n_examples

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the loss.

        Args:
            x: Points in the coordinates of the subspace, shape ``(n, d)``.

        Returns:
            Losses, shape ``(n,)``, float64, on the device of ``x``. NaN and infinite losses come
            back as they are.

        Raises:
            ValueError: If ``x`` has another shape or is not finite, or ``loss_fn`` does not return
                a tensor with one element. Other errors of ``loss_fn`` pass through.
        """
        points = torch.as_tensor(x, dtype=torch.float64).detach()
        if points.ndim != 2 or points.shape[1] != self.subspace.dim:
            raise ValueError(
                f"x must have shape (n, {self.subspace.dim}), one point a row, got "
                f"{tuple(points.shape)}"
            )
        if not torch.isfinite(points).all():
            i = int((~torch.isfinite(points)).any(dim=1).nonzero()[0])
            raise ValueError(f"x must be finite, got {points[i].tolist()} in row {i}")
        with plain_arithmetic(self._theta.device.type), preserved_random_state():
            return points.new_tensor([self._loss_at(point) for point in points])

    def _count(self, module: nn.Module) -> int:
        return sum(p.numel() for _, p in trainable_parameters(module))

    def _copy(self, module: nn.Module) -> nn.Module:
        return shadow_copy(module)

    def _bind(self) -> None:
        """Make the weights of the copy pieces of one vector, so that a point is written once."""
        weights = self._loss.weights
        self._theta = torch.empty_like(self.subspace.origin)
        pieces = self._theta.split([w.numel() for w in weights])
        self._pieces: list[tuple[nn.Parameter, Tensor]] = []
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for weight, piece in zip(weights, pieces, strict=True):
            alike = weight.is_contiguous() and (weight.dtype, weight.device) == (
                piece.dtype,
                piece.device,
            )
            (self._pieces if alike else self._copied).append((weight, piece.view_as(weight)))
            if alike:
                weight.data = piece.view_as(weight)  # frees what it held

    def _loss_at(self, point: Tensor) -> float:
        self._loss.reset()
        self._write(point)
        return sum(share * loss.item() for share, loss in self._loss.parts())

    def _write(self, point: Tensor) -> None:
        """Put the weights of a point into the copy."""
        self.subspace.point(point, out=self._theta)
        for weight, piece in self._pieces:
            weight.data = piece  # each time: a step may have bound it to something else
        for weight, piece in self._copied:
            weight.copy_(piece)


def loss_from_steps(module: Any, batch: Any, batch_idx: int = 0) -> Tensor:
    """The loss an ordinary LightningModule trains on, from its own steps.

    Calls ``training_step``, which is what training minimises, or ``validation_step`` where only
    that is defined. Importing lightning is not needed: a step counts as defined unless the class it
    comes from belongs to lightning's core.

    Args:
        module: A LightningModule, or any object with such steps.
        batch: What its dataloader yields, on its device.
        batch_idx: Passed on if the step takes it.

    Returns:
        The loss as the step returned it, a tensor with one element.

    Raises:
        ValueError: If the module optimises manually, defines neither step, or the step does not
            return a tensor with one element or a dict with one under ``"loss"``.

    Example:
        >>> class Model(torch.nn.Linear):
        ...     def training_step(self, batch):
        ...         return {"loss": self(batch).square().mean() + 1}
        >>> loss_from_steps(Model(2, 1, bias=False), torch.zeros(3, 2)).item()
        1.0
    """
    if not getattr(module, "automatic_optimization", True):
        raise ValueError(
            f"loss_fn must be given for a module with manual optimization, got none for "
            f"{type(module).__name__}. Pass loss_fn(module, batch) that returns the loss to look at"
        )
    name = next((n for n in ("training_step", "validation_step") if _defines(module, n)), None)
    if name is None:
        raise ValueError(
            f"module must define training_step or validation_step, got {type(module).__name__} "
            "with neither. Pass loss_fn(module, batch)"
        )
    step = getattr(module, name)
    output = step(*_step_arguments(step, batch, batch_idx))
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(
            f"{type(module).__name__}.{name} must return the loss as a tensor with one element, or "
            f"a dict with one under 'loss', got {_described(output)}. Pass loss_fn(module, batch)"
        )
    return loss


def _defines(module: Any, name: str) -> bool:
    if name in vars(module):
        return True
    homes = [cls.__module__ for cls in type(module).__mro__ if name in vars(cls)]
    return bool(homes) and not f"{homes[0]}.".startswith(_HOOK_HOMES)


def _step_arguments(step: Callable[..., Any], batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """As many of ``batch, batch_idx, dataloader_idx`` as the step asks for."""
    parameters = inspect.signature(step).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return batch, batch_idx
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    return (batch, batch_idx, 0)[: max(required, min(len(positional), 2))]


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a dict with keys {list(output)}"
    return "None" if output is None else f"a {type(output).__name__}"


def _batch_size(batch: Any) -> int:
    """Leading length of the first tensor in a batch, also of one that is an object."""
    found = tensors_in([batch, getattr(batch, "__dict__", None)])
    return next((len(tensor) for tensor in found if tensor.ndim), 1)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


@contextmanager
def plain_arithmetic(device_type: str) -> Iterator[None]:
    """No autograd and no autocast, whatever surrounds the call."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device_type}:
            # The cache of casts would hold on to the weights of an earlier point.
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        yield


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the global random number generators on the way out."""
    cuda = torch.cuda.is_initialized()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    numpy_state = np.random.get_state()  # noqa: NPY002 (user code may draw from the global one)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _seed_everything(seed: int) -> None:
    # Not torch.manual_seed: where CUDA is not initialised yet it would seed its later start.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)

"""The floating point types of a loss: float32 or better, or else those of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_HALVES = (torch.float16, torch.bfloat16)
_TYPES = {"64": torch.float64, "16": torch.float16, "bf16": torch.bfloat16}
# Where Lightning's modules keep the type that they say they have.
_DECLARED = "_dtype"


class Precision:
    """The types of a copy of a module, and of what its steps compute.

    Widened, what is in half precision (weights, buffers, batches) is in float32 instead, and
    everything else stays as it is. Otherwise all is as in training.

    Args:
        module: The module; its trainer, if it has one, is asked how it trains.
        shadow: The copy; it is widened.
        device_type: Where the loss is evaluated.

    Attributes:
        differs: Whether that makes a difference, as far as is known.
    """

    def __init__(self, module: nn.Module, shadow: nn.Module, device_type: str) -> None:
        self._default, self._autocast = types_around_steps(module)
        self._device_type = device_type
        tensors = {
            id(t): t for t in (*(p for _, p in shadow.named_parameters()), *shadow.buffers())
        }
        self._tensors = [(t, t.dtype) for t in tensors.values() if is_half(t)]
        states = [(state, state.get(_DECLARED)) for state in map(vars, shadow.modules())]
        self._states = [(s, d) for s, d in states if isinstance(d, torch.dtype) and d in _HALVES]
        self.differs = bool(self._tensors or self._autocast or self._default in _HALVES)
        self.convert(widened=True)

    def convert(self, widened: bool) -> None:
        """Give the copy its types."""
        for tensor, dtype in self._tensors:
            _set(tensor, tensor.detach().to(torch.float32 if widened else dtype))
        for state, dtype in self._states:  # steps cast to it
            state[_DECLARED] = torch.float32 if widened else dtype

    def of_batch(self, leaf: Tensor, widened: bool) -> Tensor:
        """A copy of a tensor of a batch, apart from any graph; it requires gradients if that does.

        So what a step does to it in place ends with the step.
        """
        half = is_half(leaf)
        self.differs = self.differs or half
        made = leaf.detach()
        made = made.float() if half and widened else made.clone()
        return made.requires_grad_() if leaf.requires_grad else made

    @contextmanager
    def around_step(self, widened: bool) -> Iterator[None]:
        """The default type of torch, and autocast, as far as they are those of training."""
        before = torch.get_default_dtype()
        with ExitStack() as stack:
            if self._default is not None and not (widened and self._default in _HALVES):
                stack.callback(torch.set_default_dtype, before)
                torch.set_default_dtype(self._default)
            if self._autocast is not None and not widened:
                # The cache of casts would keep the weights of an earlier point.
                given: Any = {"dtype": self._autocast, "cache_enabled": False}
                stack.enter_context(torch.autocast(self._device_type, **given))
            yield


def _set(tensor: Tensor, made: Tensor) -> None:
    """Give a tensor the type and the content of another one."""
    if not is_traceable_wrapper_subclass(tensor):
        tensor.data = made
        return
    if isinstance(tensor, nn.Parameter):  # what wraps other tensors has no data of its own
        made = nn.Parameter(made, requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, made)


def types_around_steps(module: nn.Module) -> tuple[torch.dtype | None, torch.dtype | None]:
    """The default type, and that of autocast, that Lightning sets around a step.

    Told by the name of the trainer's precision: to enter its context might be noticed.

    Args:
        module: Any module; only one of Lightning has a trainer.

    Returns:
        None for what is left as it is.
    """
    try:
        name = str(vars(module)["_trainer"].precision)
    except Exception:  # none, or one that is gone
        return None, None
    size, _, how = name.partition("-")
    dtype = _TYPES.get(size)
    return (dtype if how == "true" else None), (dtype if how == "mixed" else None)


def is_half(tensor: Tensor) -> bool:
    """Whether a tensor is in half precision."""
    return tensor.dtype in _HALVES

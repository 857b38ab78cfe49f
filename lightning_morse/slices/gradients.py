"""Gradients of a copy: computed where a step looks at them, and nowhere else.

With manual optimization a step calls for gradients at every batch, and seldom looks at them. An
evaluation is without autograd, so such a call leaves :class:`Unasked` gradients. Whoever looks at
one gets the error by which torch says that there is no graph, at which the evaluation is repeated
with a graph; there the call computes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Unasked(Tensor):
    """A gradient that has not been computed; it takes no memory.

    Raises:
        RuntimeError: At any use other than passing it on.
    """

    # Takes back all of its kind: computed ones are to be added to nothing.
    take_back: Callable[[], None]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Refuse."""
        for value in _flat((*args, *(kwargs or {}).values())):
            if type(value) is Unasked:
                vars(value)["take_back"]()
                break
        raise RuntimeError("the step looks at gradients, and the loss does not require grad here")


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


class Gradients:
    """Gradients of the parameters of a copy.

    Args:
        copies: Tensors that are copies of those of the run. No others ever get a gradient: a step
            may use parameters of the run, as global variables.
    """

    def __init__(self, copies: Callable[[], Iterable[Tensor]]) -> None:
        self._copies = copies
        self._unasked: dict[int, Unasked] = {}

    def backward(self, loss: Any, **options: Any) -> None:
        """Give the copies the gradients of a loss, computed if autograd is on."""
        leaves = [one for one in self._copies() if one.is_leaf and one.requires_grad]
        if not torch.is_grad_enabled() or not isinstance(loss, Tensor):
            for leaf in leaves:
                if leaf.grad is None:
                    self._leave_unasked(leaf)
            return
        self.take_back()
        known = {id(leaf) for leaf in leaves}
        asked = options.get("inputs", leaves)
        inputs = [one for one in (asked,) if isinstance(one, Tensor)] or list(asked)
        if inputs := [one for one in inputs if id(one) in known]:
            torch.autograd.backward(
                loss,
                options.get("gradient"),
                retain_graph=True,  # whoever evaluates may differentiate once more
                create_graph=options.get("create_graph", False),
                inputs=inputs,
            )

    def forget(self, parameters: Iterable[Any]) -> None:
        """Take the gradients of those parameters back that are copies."""
        known = {id(one) for one in self._copies() if one.is_leaf and one.grad is not None}
        for one in parameters if known else ():
            if id(one) in known:
                one.grad = None

    def take_back(self) -> None:
        """Take those back that have not been computed."""
        for one in self._copies():
            if one.is_leaf and type(one.grad) is Unasked:
                one.grad = None

    def _leave_unasked(self, leaf: Tensor) -> None:
        if type(leaf) not in (Tensor, nn.Parameter) or leaf.layout is not torch.strided:
            return
        made = self._unasked.get(id(leaf))
        if made is None:
            made = leaf.new_zeros(()).expand(leaf.shape).as_subclass(Unasked)
            vars(made)["take_back"] = self.take_back
            self._unasked[id(leaf)] = made
        with contextlib.suppress(RuntimeError):  # a step has given it another shape
            leaf.grad = made

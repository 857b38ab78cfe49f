"""The mean loss of a shadow copy of a network on a fixed probe set."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.slices.batch_statistics import checked_choice, choose_statistics
from lightning_morse.slices.batches import batch_size, listed_batches, mapped
from lightning_morse.slices.copying import Check
from lightning_morse.slices.isolation import seed_everything
from lightning_morse.slices.module_copy import copy_of_loss, generators_beside, shadow_copy
from lightning_morse.slices.module_state import ModuleState
from lightning_morse.slices.own_classes import take_own_classes
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.requests import ending_nothing
from lightning_morse.slices.silence import quiet
from lightning_morse.slices.steps import described, loss_from_steps
from lightning_morse.slices.world import World

# How autograd complains about a loss that differentiates by weights without gradients.
_NEEDS_GRADIENTS = ("does not require grad", "not have been used in the graph")


class ShadowLoss:
    r"""The mean loss of a shadow copy of a network on a fixed probe set.

    Every evaluation starts from the same buffers, attributes and batch contents, with the global
    random number generators of torch (CPU and CUDA), NumPy and Python seeded by ``seed`` (common
    random numbers). Preserving those of the run is up to the caller
    (:func:`preserved_random_state`). The copy is in eval mode, so that dropout and other noise are
    off, but layers that keep running statistics use those of each batch, as in a training step
    (:func:`~lightning_morse.slices.batch_statistics.choose_statistics`). It is in float32 or better
    (a module in half precision is converted, and so are its batches). What a step prints is not
    shown.

    Batch ``b`` has weight ``n_b``: the ``batch_size`` that the step passes to ``self.log``, else
    what :func:`~lightning_morse.slices.batches.batch_size` finds.

    Args:
        module: The network; read once, at construction, and never changed.
        batches: The probe set, on the device of the module; any finite iterable.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.
        copy_of: Makes the shadow copy.
        indices: The index that each batch had in its epoch, which a step may look at; by default
            0, 1, 2, ...
        batch_norm: ``"batch"``: layers that keep running statistics and are in training mode in
            ``module`` use those of each batch. ``"running"``: none does.
        check: Called after every few hundred objects that are copied, or put back for the first
            time; it raises where there is no time left for more.

    Attributes:
        module: The shadow copy.
        statistics: Which statistics its layers use.
        world: What the copy refers to but does not own.
        batches: The probe set.
        weights: The parameters of the copy that belong to trainable ones of the network, in order.
        generators: Random number generators that steps may draw from and that are no part of the
            copy; whoever evaluates the loss restores them.
        promoted: Whether batches in half precision are converted.

    Raises:
        ValueError: If nothing is trainable, there are no batches, a batch is empty, or
            ``batch_norm`` is neither of the two.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Iterable[Any],
        loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
        seed: int = 0,
        copy_of: Callable[[nn.Module, World], nn.Module] = shadow_copy,
        indices: Sequence[int] | None = None,
        batch_norm: str = "batch",
        check: Check | None = None,
    ) -> None:
        checked_choice(batch_norm)
        trained = {name for name, _ in trainable_parameters(module)}
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        self.batches = listed_batches(batches)
        if not self.batches:
            raise ValueError("batches must hold at least one probe batch, got none")
        self._indices = tuple(range(len(self.batches)) if indices is None else indices)
        self._sizes = [batch_size(batch) for batch in self.batches]
        if 0 in self._sizes:
            raise ValueError(
                f"batches[{self._sizes.index(0)}] must not be empty, got a leading length of 0. "
                "Leave it out"
            )
        # Batches that the step skips at the first evaluation.
        self._skipped: frozenset[int] | None = None
        self._seed = seed
        self._differentiates = False
        self.world = World(check=check)
        with torch.inference_mode(False), torch.no_grad():
            self.module = copy_of(module, self.world)
            self.statistics = choose_statistics(module, self.module, batch_norm)
            self.promoted = any(map(_is_half, self.module.parameters()))
            if self.promoted:
                self.module.float()
            # Not parameters(), which a module may override for its optimizer.
            self.weights = [p for n, p in self.module.named_parameters() if n in trained]
            self._loss_fn = copy_of_loss(loss_fn, self.world)
            self.generators = generators_beside(module, loss_fn)
            self._state = ModuleState(
                self.module,
                self._loss_fn,
                *self.generators,
                passed_over=[*self.weights, *self.world.written, *self.world.shared],
                originals=self.world.copier.originals,
                classes=self.world.own_classes,
                check=check,
            )
            self.world.remember = self._state.track

    @property
    def n_examples(self) -> int:
        """Number of examples in the probe set, without those of skipped batches."""
        kept = [n for b, n in enumerate(self._sizes) if b not in (self._skipped or ())]
        return sum(kept)

    def close(self) -> None:
        """Give the copy up: it is evaluated no more, and leaves nothing behind."""
        take_own_classes(self.world)

    def reset(self) -> None:
        """Reset the copy and the global generators to where every evaluation starts."""
        self.world.forget()
        self._state.restore()
        for weight in self.weights:
            weight.grad = None
        seed_everything(self._seed)

    def parts(self) -> Iterator[tuple[float, Tensor]]:
        """Loss and share of each batch, in turn; the mean loss is the sum of their products.

        A step may skip a batch by returning None. Batches skipped at the first evaluation do not
        belong to the probe set from then on.

        Raises:
            SkippedBatchError: If a step skips other batches than at the first evaluation.
            EndedByStepError: If a step asks to end the run.
            ValueError: If ``loss_fn`` does not return a tensor with one element, or every batch is
                skipped. Its other errors pass through.
        """
        losses = (
            {b: self._of_batch(b) for b in range(len(self.batches))}
            if (self._skipped is None)
            else {}
        )
        if self._skipped is None:
            self._skipped = frozenset(b for b, loss in losses.items() if loss is None)
            if len(self._skipped) == len(self.batches):
                self._skipped = None
                raise ValueError(
                    f"the step must return the loss of at least one of the {len(self.batches)} "
                    "probe batches, got None for each. Keep more of them with probe_batches, or "
                    "pass loss_fn(module, batch)"
                )
        total = self.n_examples
        for b in range(len(self.batches)):
            loss = losses[b] if losses else self._of_batch(b)
            if (loss is None) != (b in self._skipped):
                raise SkippedBatchError("the step skips other batches here than at the weights")
            if loss is not None:
                yield self._sizes[b] / total, loss

    def _of_batch(self, b: int) -> Tensor | None:
        if torch.is_grad_enabled():  # whoever asks wants the graph
            return self._called(b)
        if not self._differentiates:
            try:
                return self._called(b)
            except RuntimeError as error:
                if not any(said in str(error) for said in _NEEDS_GRADIENTS):
                    raise
            # A loss that takes derivatives itself: from now on its graph is built.
            self._differentiates = True
        with torch.enable_grad():
            loss = self._called(b)
        return None if loss is None else loss.detach()

    def _called(self, b: int) -> Tensor | None:
        batch = mapped(self.batches[b], self._fresh)
        self.world.batch_size = None
        with quiet(), ending_nothing():
            # In a context of its own, in which context variables are set without effect.
            context = contextvars.copy_context()
            if self._loss_fn is None:
                loss = context.run(loss_from_steps, self.module, batch, self._indices[b])
            else:
                loss = context.run(self._loss_fn, self.module, batch)
        if loss is None:
            return None
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(
                f"loss_fn must return a tensor with one element, got {described(loss)}. "
                "Return the mean loss of the batch"
            )
        if self._skipped is None and self.world.batch_size is not None:
            self._sizes[b] = self.world.batch_size
        return loss

    def _fresh(self, leaf: Tensor) -> Tensor:
        """Copy a tensor of a batch, so that what a step does to it in place ends with the step."""
        return leaf.float() if self.promoted and _is_half(leaf) else leaf.clone()


class SkippedBatchError(RuntimeError):
    """A step skips other batches than at the first evaluation."""


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)

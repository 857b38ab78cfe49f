"""The mean loss of a shadow copy of a network on a fixed probe set."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_morse.slices.batch_statistics import checked_choice, choose_statistics
from lightning_morse.slices.batches import batch_size, listed_batches, mapped
from lightning_morse.slices.copying import Check
from lightning_morse.slices.isolation import preserved_random_state, seed_everything
from lightning_morse.slices.module_copy import copy_of_loss, shadow_copy
from lightning_morse.slices.module_state import ModuleState
from lightning_morse.slices.own_classes import take_own_classes
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.precision import Precision
from lightning_morse.slices.reached import reached_by_steps
from lightning_morse.slices.requests import EndedByStepError, ending_nothing
from lightning_morse.slices.silence import quiet
from lightning_morse.slices.stand_ins import UntouchableError
from lightning_morse.slices.steps import described, loss_from_steps
from lightning_morse.slices.time_limit import LimitOfTime, TooLongError
from lightning_morse.slices.world import World

# How autograd complains about a loss that differentiates by weights without gradients.
_NEEDS_GRADIENTS = (
    *("does not require grad", "not have been used in the graph"),
    *("doesn't require gradient", "requires_grad=False"),
)


class _Way(NamedTuple):
    """What is as in training because the loss cannot be evaluated otherwise."""

    narrow: bool = False
    trains: bool = False
    differentiates: bool = False


class ShadowLoss:
    r"""The mean loss of a shadow copy of a network on a fixed probe set.

    Every evaluation starts from the same buffers, attributes and batch contents, with the global
    random number generators of torch (CPU and CUDA), NumPy and Python seeded by ``seed`` (common
    random numbers). Preserving those of the run is up to the caller
    (:func:`preserved_random_state`). The copy is in eval mode, so that dropout and other noise are
    off, but layers that keep running statistics use those of each batch, as in a training step
    (:func:`~lightning_morse.slices.batch_statistics.choose_statistics`). What is in half precision,
    in batches too, is in float32 (:class:`~lightning_morse.slices.precision.Precision`). What a
    step prints is not shown.

    Where the first evaluation fails, others are tried that are nearer to a training step, and the
    first that succeeds is kept: with the graph of the loss; with ``training`` true in modules that
    have parts and are not torch's; in the precision of training, with its autocast.

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
        promoted: Whether what is in half precision is converted.
        precision: The floating point types.

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
        self._way = _Way()
        # Not if weights come from other processes, which would not, nor if whoever evaluates the
        # loss has set modes, as to gather statistics: a reset would undo that.
        self._can_begin_anew = False
        self._limit = LimitOfTime()
        self.world = World(check=check)
        with torch.inference_mode(False), torch.no_grad():
            self.module = copy_of(module, self.world)
            self.statistics = choose_statistics(module, self.module, batch_norm)
            # Not parameters(), which a module may override for its optimizer.
            self.weights = [p for n, p in self.module.named_parameters() if n in trained]
            device_type = self.weights[0].device.type
            self.promoted = True
            self.precision = Precision(module, self.module, device_type)
            self._parts_that_train = _parts_that_train(module, self.module)
            self._loss_fn = copy_of_loss(loss_fn, self.world)
            self._reached = reached_by_steps(module, loss_fn)
            self.generators = self._reached.generators
            self._met: list[Any] = []  # what the copy has got to know of the run since
            self._check = check
            self._modes = _modes_of(self.module)
            self._state = self._remembered()
            self.world.remember = self._remember

    @property
    def n_examples(self) -> int:
        """Number of examples in the probe set, without those of skipped batches."""
        kept = [n for b, n in enumerate(self._sizes) if b not in (self._skipped or ())]
        return sum(kept)

    def _remembered(self) -> ModuleState:
        """The state of the copy as it is now."""
        return ModuleState(
            self.module,
            self._loss_fn,
            *self.generators,
            *self._met,
            passed_over=[*self.weights, *self.world.written, *self.world.shared],
            originals=self.world.copier.originals,
            classes=self.world.own_classes,
            reached=self._reached,
            check=self._check,
        )

    def _remember(self, value: Any) -> None:
        self._met.append(value)
        self._state.track(value)

    @property
    def conceded(self) -> tuple[str, ...]:
        """In words, what is as in training because the loss cannot be evaluated otherwise."""
        words = {"in the precision of training": self._way.narrow}
        words["with self.training true"] = self._way.trains
        return tuple(said for said, holds in words.items() if holds)

    @contextmanager
    def leaving_no_trace(self) -> Iterator[None]:
        """Put back afterwards what training goes on with and is no part of the copy."""
        with preserved_random_state(self.generators), self._state.keeping_shared():
            yield

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
        losses: dict[int, Tensor | None] = {}
        if self._skipped is None:
            losses = self._first()
            self._skipped = frozenset(b for b, loss in losses.items() if loss is None)
        total = self.n_examples
        for b in range(len(self.batches)):
            loss = losses[b] if losses else self._of_batch(b)
            if (loss is None) != (b in self._skipped):
                raise SkippedBatchError("the step skips other batches here than at the weights")
            if loss is not None:
                yield self._sizes[b] / total, loss

    def _first(self) -> dict[int, Tensor | None]:
        """The losses of all batches, in the first way in which they can be had."""
        failure: Exception | None = None
        self._can_begin_anew = not self.world.written and self._modes == _modes_of(self.module)
        try:
            for way in self._ways():
                try:
                    if way != self._way:
                        with torch.no_grad():
                            self._change(way)
                    return self._all_losses()
                except Exception as error:
                    if _is_final(error):
                        raise
                    failure = failure or error
            assert failure is not None
            if self._way != (first := _Way()):
                with torch.no_grad():
                    self._change(first)
            raise failure
        finally:
            del failure  # or it would refer to itself, and keep what its frames hold

    def _ways(self) -> Iterator[_Way]:
        """Ways to evaluate the loss, the first one first."""
        if not self._can_begin_anew:
            yield self._way
            return
        for narrow in (False, True):
            if narrow and not self.precision.differs:
                return
            for trains in (False, True) if self._parts_that_train else (False,):
                yield _Way(narrow, trains, False)
                if not torch.is_grad_enabled():
                    yield _Way(narrow, trains, True)

    def _change(self, way: _Way) -> None:
        """Go over to another way, with everything as it is at the start of an evaluation."""
        self.reset()
        self._way = way
        self._differentiates = way.differentiates
        for part in self._parts_that_train:
            part.training = way.trains
        if self.promoted == way.narrow:
            self.promoted = not way.narrow
            self.precision.convert(self.promoted)
        self._modes = _modes_of(self.module)
        self._state = self._remembered()
        self.reset()

    def _all_losses(self) -> dict[int, Tensor | None]:
        losses = {b: self._of_batch(b) for b in range(len(self.batches))}
        if all(loss is None for loss in losses.values()):
            raise ValueError(
                f"the step must return the loss of at least one of the {len(self.batches)} "
                "probe batches, got None for each. Keep more of them with probe_batches, or "
                "pass loss_fn(module, batch)"
            )
        return losses

    def _of_batch(self, b: int) -> Tensor | None:
        if torch.is_grad_enabled():  # whoever asks wants the graph
            return self._called(b)
        if not self._differentiates:
            try:
                return self._called(b)
            except RuntimeError as error:
                begins_anew = self._skipped is None and self._can_begin_anew
                if begins_anew or not any(said in str(error) for said in _NEEDS_GRADIENTS):
                    raise
            # A loss that takes derivatives itself: from now on its graph is built.
            self._differentiates = True
        with torch.enable_grad():
            loss = self._called(b)
        return None if loss is None else loss.detach()

    def _called(self, b: int) -> Tensor | None:
        batch = mapped(self.batches[b], self._fresh)
        self.world.batch_size = None
        # Of what surrounds a step the limit is the innermost: the others put back what they change.
        around = self.precision.around_step(self.promoted)
        with quiet(), ending_nothing(), around, self._limit.kept():
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
        return self.precision.of_batch(leaf, self.promoted)


class SkippedBatchError(RuntimeError):
    """A step skips other batches than at the first evaluation."""


def _is_final(error: Exception) -> bool:
    """Whether a failed evaluation is not to be tried in another way.

    A step has asked to end the run, has reached for what is not the copy's, or has not ended by
    itself, or memory is short.
    """
    return isinstance(error, EndedByStepError) or is_not_of_the_point(error)


def is_not_of_the_point(error: Exception) -> bool:
    """Whether an error says nothing about the weights at which it happened."""
    # A step that does not end would take its time at one point after the other.
    kinds = (UntouchableError, TooLongError, MemoryError, torch.OutOfMemoryError)
    return getattr(error, "ends_run", False) or isinstance(error, kinds)


def _modes_of(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def _parts_that_train(module: nn.Module, shadow: nn.Module) -> list[nn.Module]:
    """The modules of a copy whose step may do something else in training mode than in eval mode.

    Not those of torch, nor those without parts, which make noise or gather statistics then.
    """
    copies = dict(shadow.named_modules())
    pairs = [(part, copies[name]) for name, part in module.named_modules() if name in copies]
    return [
        copied
        for part, copied in pairs
        if part.training
        and not copied.training
        and len(list(part.children()))
        and not f"{type(part).__module__}.".startswith("torch.")
    ]

"""The state of a copy of a module, remembered so that every evaluation starts from the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_morse.slices.class_state import ClassState
from lightning_morse.slices.contents import Content
from lightning_morse.slices.copying import Check
from lightning_morse.slices.global_state import GlobalState
from lightning_morse.slices.ownership import users_classes
from lightning_morse.slices.reached import Reached
from lightning_morse.slices.remembered import Remembered
from lightning_morse.slices.weight_views import WeightViews


class ModuleState(Remembered):
    """Bindings and contents of everything reachable from a copy, apart from its weights.

    What the copy shares with the run belongs to it: what the classes of these objects hold, and
    what steps lead to by name.

    Args:
        roots: Where to start: modules, or any objects.
        passed_over: What does not belong to the state: tensors that the caller writes before every
            evaluation, and what others own.
        originals: The tensors that copies were made from, by ``id`` of the copy, where known.
        classes: Classes made for the copy alone.
        reached: What steps lead to by name.
        check: As :class:`~lightning_morse.slices.remembered.Remembered` takes it.
    """

    def __init__(
        self,
        *roots: Any,
        passed_over: Iterable[Any] = (),
        originals: Mapping[int, Tensor] | None = None,
        classes: Iterable[type] = (),
        reached: Reached | None = None,
        check: Check | None = None,
    ) -> None:
        self._originals = {} if originals is None else originals
        own, apart = list(classes), list(passed_over)
        super().__init__(*roots, passed_over=apart, classes=own, check=check)
        written = [one for one in apart if isinstance(one, Tensor)]
        for tensor in written:
            self.track(vars(tensor))  # a weight may have attributes
        tensors = [content.tensor for content in self._tensors]
        self._views = WeightViews(tensors, written, self._originals)
        self._tensors = [c for c in self._tensors if id(c.tensor) not in self._views.ids]
        self._fresh = list(self._tensors)
        kinds = dict.fromkeys(map(type, self._alive))
        shared = dict.fromkeys(base for kind in kinds for base in users_classes(kind))
        self._shared, self._apart = [cls for cls in shared if cls not in own], apart
        reached = Reached() if reached is None else reached
        others = [cls for cls in reached.classes if cls not in shared]
        self._reached = replace(reached, classes=others)
        self._of_run = self._shared_now(check)

    def _shared_now(self, check: Check | None = None) -> tuple[Remembered, ...]:
        """What is shared with the run, as it is now."""
        of_classes = ClassState(self._shared, self._apart, check)
        return of_classes, GlobalState(self._reached, self._apart, check)

    def restore(self) -> None:
        """Restore every binding and every content."""
        super().restore()
        self._views.follow()
        for shared in self._of_run:
            shared.restore()

    @contextmanager
    def keeping_shared(self) -> Iterator[None]:
        """Put back afterwards what is shared with the run, which goes on with it."""
        now = self._shared_now()
        try:
            yield
        finally:
            for shared in now:
                shared.restore()

    def _content_of(self, tensor: Tensor) -> Content:
        return Content(tensor, self._originals.get(id(tensor)))

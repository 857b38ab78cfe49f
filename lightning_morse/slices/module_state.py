"""The state of a copy of a module, remembered so that every evaluation starts from the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_morse.slices.class_state import ClassState, users_classes
from lightning_morse.slices.contents import Content
from lightning_morse.slices.copying import Check
from lightning_morse.slices.remembered import Remembered
from lightning_morse.slices.weight_views import WeightViews


class ModuleState(Remembered):
    """Bindings and contents of everything reachable from a copy, apart from its weights.

    What the classes of these objects hold, which the copy shares with the run, belongs to it.

    Args:
        roots: Where to start: modules, or any objects.
        passed_over: What does not belong to the state: tensors that the caller writes before every
            evaluation, and what others own.
        originals: The tensors that copies were made from, by ``id`` of the copy, where known.
        classes: Classes made for the copy alone.
        check: As :class:`~lightning_morse.slices.remembered.Remembered` takes it.
    """

    def __init__(
        self,
        *roots: Any,
        passed_over: Iterable[Any] = (),
        originals: Mapping[int, Tensor] | None = None,
        classes: Iterable[type] = (),
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
        self._of_run = ClassState(self._shared, apart, check)

    def restore(self) -> None:
        """Restore every binding and every content."""
        super().restore()
        self._views.follow()
        self._of_run.restore()

    @contextmanager
    def keeping_classes(self) -> Iterator[None]:
        """Put back afterwards what the user's classes hold now, which training goes on with."""
        now = ClassState(self._shared, self._apart)
        try:
            yield
        finally:
            now.restore()

    def _content_of(self, tensor: Tensor) -> Content:
        return Content(tensor, self._originals.get(id(tensor)))

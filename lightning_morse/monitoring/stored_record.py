"""The record of a run as checkpoints hold it: small in itself, with what is large in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_morse.distributed.errors import cause
from lightning_morse.monitoring.packing import packed
from lightning_morse.monitoring.state_files import SMALL_STATE_BYTES, StateFiles, n_bytes


class StoredRecord:
    """Stores the record, and makes what is stored anew only when it has changed.

    Args:
        warn: Takes messages for the user.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._files = StateFiles()
        self._version: Any = None
        self._made: dict[str, Any] = {}

    def put(
        self, version: object, whole: Callable[[], dict[str, Any]], folder: Path | None
    ) -> dict[str, Any]:
        """The record in tensors and plain containers, as far as it belongs in a checkpoint.

        Args:
            version: What tells one record from another.
            whole: Makes the record; its weights are ``["weights"]``, its snapshots and the steps
                they were taken at ``["trajectory"]["snapshots"]`` and ``["trajectory"]["taken"]``.
            folder: Where a large record goes, of which the state then holds the names of files.
                Without one, or if it cannot be written to, only the names of weights are left.

        Returns:
            The state; not to be written to.
        """
        same = self._made and self._version == (version, folder)
        if not (same and self._files.still_hold(folder)):
            state = whole()
            made = self._small(state, folder)
            if made is None:  # the next checkpoint may have a place
                self._made = {}
                return {"weights": state["weights"]}
            self._version, self._made = (version, folder), packed(made)
        return self._made

    def _small(self, state: dict[str, Any], folder: Path | None) -> dict[str, Any] | None:
        """The state with what is too large for a checkpoint in files; None without a place."""
        if n_bytes(state) <= SMALL_STATE_BYTES:
            self._files.have_none()
            return state
        if folder is None:
            return None
        snapshots, taken = state["trajectory"]["snapshots"], state["trajectory"]["taken"]
        rows = {id(row): (step, row) for step, row in zip(taken, snapshots, strict=True)}
        try:
            return {**self._files.put_away(state, folder, rows), "folder": str(folder.absolute())}
        except OSError as error:
            self._warn(f"the record is not in checkpoints ({cause(error)})")
            return None

    def forget(self) -> None:
        """Store everything again: the trajectory begins anew."""
        self._made = {}
        self._files.forget()

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; its files go once two later ones have been stored."""
        self._made = {}
        self._files.take_over(state)

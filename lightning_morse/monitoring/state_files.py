"""What is too large for a checkpoint, in files beside the run's other files.

A checkpoint holds the names of these files, which say what is in them: the name of a file is the
digest of its content, and a mark of the process that wrote it. A file is written once, whole, and
stays as long as one of the last two checkpoints refers to it. Runs may share a folder: each deletes
no files but its own, and those of the checkpoint that it was resumed from. Whoever resumes from an
older one, or has moved the files, starts a new record.

A checkpoint never refers to a file that is not whole, however the process ends, as long as the
operating system goes on. Files are not forced to the disk, no more than Lightning forces the
checkpoint itself: that takes some tens of milliseconds each. If the machine stops in the seconds
after a checkpoint, the digest tells that a file is not what was written, and the record begins
anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_morse.files.atomic import write_whole
from lightning_morse.files.disk import leave_room
from lightning_morse.monitoring.containers import contents, replaced

# Tensors up to this size stay in the checkpoint; so does everything if it is small altogether.
_SMALL_TENSOR_BYTES = 1 << 14
SMALL_STATE_BYTES = 1 << 19
_MARK = "lightning_morse/stored"
_SUFFIX = ".pt"


class MissingStateError(ValueError):
    """A file that a checkpoint refers to is not there, or is not what it was."""


class StateFiles:
    """The files of one run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     small = StateFiles().put_away({"w": torch.ones(9000)}, Path(folder))
        ...     back = fetched(small, Path(folder))
        >>> list(small["w"]), torch.equal(back["w"], torch.ones(9000))
        (['lightning_morse/stored'], True)
    """

    def __init__(self) -> None:
        # Names of tensors that are known not to change. An id is theirs as long as they exist, and
        # they are not kept for that.
        self._known: dict[Any, tuple[str, weakref.ref[Tensor] | None]] = {}
        self._before: set[str] = set()
        self._own: set[str] = set()
        self._mark = secrets.token_hex(4)

    def put_away(
        self, state: Any, folder: Path, rows: Mapping[int, tuple[int, Tensor]] | None = None
    ) -> Any:
        """Write the large tensors of a state to files.

        Args:
            state: Plain containers and tensors; the tensors must not change later on.
            folder: Where to; it is made if need be.
            rows: Tensors that are parts of one that does change, by ``id``, each with a number that
                is its own in this run.

        Returns:
            The state with references in place of large tensors.

        Raises:
            OSError: If the files cannot be written, or would leave too little room on the disk.
        """
        used: dict[Any, tuple[str, weakref.ref[Tensor] | None]] = {}

        def key_of(tensor: Tensor) -> Any:
            own = None if rows is None else rows.get(id(tensor))
            return id(tensor) if own is None else ("row", own[0])

        there = _names_in(folder)

        def name_of(tensor: Tensor) -> str:
            name, of = self._known.get(key_of(tensor), ("", None))
            return name if name in there and (of is None or of() is tensor) else ""

        large = [t for t in _tensors(state) if _size(t) > _SMALL_TENSOR_BYTES]
        leave_room(folder, sum(_size(t) for t in large if not name_of(t)))
        folder.mkdir(parents=True, exist_ok=True)

        def put(value: Any) -> Any:
            if isinstance(value, Tensor):
                if _size(value) <= _SMALL_TENSOR_BYTES:
                    return value.clone()
                name, key = name_of(value) or _written(value, folder, self._mark), key_of(value)
                used[key] = name, weakref.ref(value) if key == id(value) else None
                return {_MARK: name}
            return value

        made = replaced(state, put)
        self._known = used
        self._keep({name for name, _ in used.values()}, folder)
        return made

    def still_hold(self, folder: Path | None) -> bool:
        """Whether a state put away again would be the last one; then it counts as put away.

        Args:
            folder: The folder of the last one.
        """
        names = {name for name, _ in self._known.values()}
        if names and (folder is None or not names <= _names_in(folder)):
            return False
        if folder is not None:
            self._keep(names, folder)
        return True

    def have_none(self) -> None:
        """Note that what was put away last needs no files."""
        self._known = {}

    def _keep(self, names: set[str], folder: Path) -> None:
        """Delete own files but those of this state, given by name, and of the one before."""
        for name in self._own - names - self._before:
            (folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)
        self._own = names | self._before
        self._before = names

    def forget(self) -> None:
        """Write everything again, numbered tensors too: they begin anew."""
        self._known = {}

    def take_over(self, state: Any) -> None:
        """Let files that a state refers to go once two later states have been put away."""
        self._before = {value[_MARK] for value in contents(state) if _is_reference(value)}
        self._own |= self._before


def fetched(state: Any, folder: Path) -> Any:
    """The state that :meth:`StateFiles.put_away` has written.

    Raises:
        MissingStateError: If a file is not there, or is not what was written.
    """

    def get(value: Any) -> Any:
        return _read(folder / f"{value[_MARK]}{_SUFFIX}") if _is_reference(value) else value

    return replaced(state, get)


def n_bytes(state: Any) -> int:
    """Size of the tensors in plain containers, bytes."""
    return sum(map(_size, _tensors(state)))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == [_MARK]


def _tensors(state: Any) -> Iterator[Tensor]:
    return (value for value in contents(state) if isinstance(value, Tensor))


def _names_in(folder: Path) -> set[str]:
    # To ask for all files at once is quicker than for each.
    found = os.listdir(folder) if folder.is_dir() else []
    return {name.removesuffix(_SUFFIX) for name in found}


def _written(tensor: Tensor, folder: Path, mark: str) -> str:
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().clone(), buffer)
    content = buffer.getbuffer()
    name = f"{_digest(content)}-{mark}"
    path = folder / f"{name}{_SUFFIX}"
    if not path.exists():
        write_whole(path, content, durable=False)
    return name


def _digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read(path: Path) -> Tensor:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingStateError(f"{path.name} cannot be read: {error}") from error
    if _digest(content) != path.stem.partition("-")[0]:  # earlier files have no mark
        raise MissingStateError(f"{path.name} is not what was written")
    tensor: Tensor = torch.load(io.BytesIO(content), weights_only=True)
    return tensor

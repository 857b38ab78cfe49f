"""What is too large for a checkpoint, in files beside the run's other files.

A checkpoint holds the names of these files, which say what is in them: the name of a file is the
digest of its content. A file is written once, whole, and stays as long as one of the last two
checkpoints refers to it. Whoever resumes from an older one, or has moved the files, starts a new
record.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_morse.atomic import write_whole

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
        # Digests of tensors that are known not to change, and the tensors, so that an id is theirs.
        self._known: dict[Any, tuple[str, Tensor | None]] = {}
        self._before: set[str] = set()

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
            OSError: If the files cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        used: dict[Any, tuple[str, Tensor | None]] = {}

        def put(value: Any) -> Any:
            if isinstance(value, Tensor):
                if n_bytes(value) <= _SMALL_TENSOR_BYTES:
                    return value.clone()
                own = None if rows is None else rows.get(id(value))
                key = id(value) if own is None else ("row", own[0])
                known = self._known.get(key)
                path = None if known is None else folder / f"{known[0]}{_SUFFIX}"
                if known is None or path is None or not path.exists():
                    known = _written(value, folder), value if own is None else None
                used[key] = known
                return {_MARK: known[0]}
            if isinstance(value, dict):
                return {k: put(v) for k, v in value.items()}
            return [put(v) for v in value] if isinstance(value, list) else value

        made = put(state)
        self._known = used
        names = {name for name, _ in used.values()}
        for path in folder.glob(f"*{_SUFFIX}"):
            if path.stem not in names | self._before:
                path.unlink(missing_ok=True)
        self._before = names
        return made


def fetched(state: Any, folder: Path) -> Any:
    """The state that :meth:`StateFiles.put_away` has written.

    Raises:
        MissingStateError: If a file is not there, or is not what was written.
    """
    if isinstance(state, dict):
        if list(state) == [_MARK]:
            return _read(folder / f"{state[_MARK]}{_SUFFIX}")
        return {k: fetched(v, folder) for k, v in state.items()}
    return [fetched(v, folder) for v in state] if isinstance(state, list) else state


def n_bytes(state: Any) -> int:
    """Size of the tensors in plain containers, bytes."""
    return sum(t.numel() * t.element_size() for t in _tensors(state))


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _written(tensor: Tensor, folder: Path) -> str:
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().clone(), buffer)
    content = buffer.getbuffer()
    name = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = folder / f"{name}{_SUFFIX}"
    if not path.exists():
        write_whole(path, content)
    return name


def _read(path: Path) -> Tensor:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingStateError(f"{path.name} cannot be read: {error}") from error
    if hashlib.blake2b(content, digest_size=16).hexdigest() != path.stem:
        raise MissingStateError(f"{path.name} is not what was written")
    tensor: Tensor = torch.load(io.BytesIO(content), weights_only=True)
    return tensor

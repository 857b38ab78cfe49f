"""Files of arrays and plain facts: one NumPy archive, nothing pickled, read member by member.

A damaged or hostile file may say anything of itself. So members that nobody asks for stay closed,
the type and shape of one that is opened are checked before room is made for it, and no more is
unpacked than its shape says and its bytes in the file can hold.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse.files.atomic import written_whole
from lightning_morse.files.regular import open_regular
from lightning_morse.files.schema import Check, DamagedFile, Member

# To be raised when a reader of the old version could not make sense of the new one.
FORMAT_VERSION = 2
FACTS = "facts"

_RATIO = 1032  # what deflate packs into one byte at best
_HEADER_BYTES = 4096  # of a member; the text of an array of few axes has about 100
_CHUNK = 2**18  # bytes unpacked at a time
_MAX_FACTS = 2**26  # bytes; those of a large analysis have about 10 kB
# As NumPy writes it. NumPy's own reader evaluates the text, and fails in many ways.
_HEADER = re.compile(
    r"\{'descr': '([<>|]?[biuf]\d{1,2})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), ?\} *\n"
)


def write(
    path: str | os.PathLike[str],
    facts: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    version: int | None = None,
    packed: bool = True,
) -> None:
    """Write facts and arrays to one file, which appears as a whole or not at all.

    Args:
        path: The file; an existing one is replaced.
        facts: Values that JSON can hold, by name; what it cannot hold is written as text.
        arrays: The arrays, by name.
        version: Number of the format; that of analyses by default.
        packed: Whether to compress.
    """
    number = FORMAT_VERSION if version is None else version
    text = json.dumps({"format": number, **facts}, default=str)
    named: dict[str, Any] = {FACTS: np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
    with written_whole(path) as file:
        (np.savez_compressed if packed else np.savez)(file, **named)


class Archive:
    """An open archive.

    Args:
        file: The open file.
        what: What it should hold, such as ``"a Morse analysis"``.

    Raises:
        DamagedFile: From every method, if a member is not what its table says.
    """

    def __init__(self, file: IO[bytes], what: str) -> None:
        self.what = what
        self._size = os.fstat(file.fileno()).st_size
        self._zip = zipfile.ZipFile(file)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._infos:
                raise DamagedFile(what, name, "there once", "two members of this name")
            self._infos[name] = info

    def facts(self, version: int) -> dict[str, Any]:
        """The facts, of which only the number of the format has been checked."""
        text = self.array(Member(FACTS, "integer", "", ("bytes",)), Check(self.what))
        if text.nbytes > _MAX_FACTS or text.dtype != np.uint8:
            raise DamagedFile(self.what, FACTS, f"at most {_MAX_FACTS} bytes", str(text.nbytes))
        try:
            raw = json.loads(text.tobytes())
        except (ValueError, RecursionError) as error:
            raise DamagedFile(self.what, FACTS, "JSON", str(error)) from error
        if not isinstance(raw, dict) or type(raw.get("format")) is not int:
            raise DamagedFile(self.what, FACTS, "an object with a format", "something else")
        if raw["format"] != version:
            wanted = f"{version}: its format is {raw['format']}, this version reads {version}"
            raise DamagedFile(self.what, "format", wanted, f"{raw['format']}; write it again")
        return raw

    def arrays(
        self, members: Iterable[Member], check: Check, prefix: str = ""
    ) -> dict[str, NDArray[Any]]:
        """Read arrays; those that are missing and may be are left out.

        Args:
            members: The table, in an order in which sizes are known where they are needed.
            check: Knows the sizes.
            prefix: What their names begin with in the file.
        """
        found = {}
        for member in members:
            if prefix + member.name in self._infos:
                found[member.name] = self.array(member, check, prefix)
            elif member.needed:
                check.refuse(member.name, member.wanted, "nothing: it is missing")
        return found

    def array(self, member: Member, check: Check, prefix: str = "") -> NDArray[Any]:
        """Read one array, after its type and shape have been checked against its table."""
        name = prefix + member.name
        if name not in self._infos:
            check.refuse(member.name, member.wanted, "nothing: it is missing")
        info = self._infos[name]
        self._check_size(info, name)
        with self._zip.open(info) as file:
            dtype, shape, is_transposed, read = self._header(file, name)
            check.header(member, dtype, shape)
            size = math.prod(shape) * dtype.itemsize
            if size != info.file_size - read:
                raise DamagedFile(self.what, name, f"{size} bytes", f"{info.file_size - read}")
            content = bytearray()
            while chunk := file.read(min(_CHUNK, size - len(content) + 1)):
                content += chunk
                if len(content) > size:
                    break
        if len(content) != size:
            raise DamagedFile(self.what, name, f"{size} bytes", "another number of them")
        array = np.frombuffer(content, dtype=dtype)
        array = array.reshape(shape[::-1]).T if is_transposed else array.reshape(shape)
        if dtype.kind == "b" and size and array.view(np.uint8).max() > 1:
            raise DamagedFile(self.what, name, "true or false", "other bytes")
        return check.values(member, array).astype(dtype.newbyteorder("="), copy=False)

    def _check_size(self, info: zipfile.ZipInfo, name: str) -> None:
        known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not known or info.flag_bits & 1:
            raise DamagedFile(self.what, name, "stored or deflated", "packed in another way")
        most = _RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
        fits = info.compress_size <= self._size
        if not fits or info.file_size > most * info.compress_size + _HEADER_BYTES:
            expected = f"unpacked from {info.compress_size} of {self._size} bytes"
            raise DamagedFile(self.what, name, expected, f"{info.file_size} bytes")

    def _header(
        self, file: IO[bytes], name: str
    ) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
        """Type and shape of an array, whether it is in Fortran's order, and the bytes read."""
        start = file.read(10)
        if start[:6] != b"\x93NUMPY" or start[6:8] != b"\x01\x00" or len(start) < 10:
            raise DamagedFile(self.what, name, "an array of NumPy", repr(start))
        length = int.from_bytes(start[8:10], "little")
        text = file.read(min(length, _HEADER_BYTES))
        match = _HEADER.fullmatch(text.decode("latin-1"))
        if match is None or len(text) != length:
            raise DamagedFile(self.what, name, "an array of numbers", repr(text[:80]))
        shape = tuple(int(s) for s in match[3].replace(" ", "").split(",") if s)
        return np.dtype(match[1]), shape, match[2] == "True", 10 + length


@contextmanager
def opened(path: str | os.PathLike[str], what: str) -> Iterator[Archive]:
    """Open an archive; whatever is wrong with its content is raised as :class:`DamagedFile`.

    Args:
        path: The file.
        what: What it should hold, such as ``"a Morse analysis"``.

    Yields:
        The archive.

    Raises:
        DamagedFile: If the block finds the file damaged.
        OSError: If the file cannot be read, or is no regular one.
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        try:
            yield Archive(file, what)
        except DamagedFile as error:
            raise error.of(name) from error
        except Exception as error:  # of many kinds, by what the reader of the archive met
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # not the content: the disk
            raise DamagedFile(what, "", "a whole NumPy archive", str(error), name) from error

"""What the members of a file are: declared once, checked when read, and printed as its page.

A :class:`Member` says of one array or fact what it is, how large, and between which values. Sizes
have names, so that one table states all relations between the shapes of the members; the first
member with a size that is not known yet sets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "integer",
    "number",
    "finite",
    "share",
    "flag",
    "text",
    "object",
    "numbers by name",
    "plain",
    "runs",
    "packed",
]
# A number, the name of one, or None for any; a name may stand for several axes at once.
Size = int | str | None
Sizes = dict[str, int | tuple[int, ...]]

_IN_WORDS = {
    "integer": "integer",
    "number": "number",
    "finite": "finite number",
    "share": "share from 0 to 1",
    "flag": "true or false",
    "text": "text",
    "object": "object",
    "numbers by name": "finite numbers by name",
    "plain": "plain values by name",
    "runs": "runs of equal integers: value, length, value, length ...",
    "packed": "object of packed numbers",
}
_DTYPES = {"integer": "iu", "number": "f", "finite": "f", "share": "f", "flag": "b"}
# By so much a share may lie outside of 0 to 1, in files of versions that summed rounded volumes.
_ROUNDING = 1e-9
_SHOWN = 80  # characters of a value that came


class DamagedFile(ValueError):
    """A file, or a text, that does not hold what it should.

    Attributes:
        file: The file; empty for a text.
        member: The part of it that is wrong; empty if that cannot be told.
        expected: What that should be.
        came: What it is.

    Example:
        >>> print(DamagedFile("a recorded run", "steps", "integers", "text", "a.npz"))
        a.npz does not hold a recorded run: "steps" should be integers, got text
    """

    def __init__(self, what: str, member: str, expected: str, came: str, file: str = "") -> None:
        super().__init__(what, member, expected, came, file)
        self.what, self.member, self.expected, self.came = what, member, expected, came
        self.file = file

    def __str__(self) -> str:
        kind = self.what.partition(" ")[2]
        head = f"broken {kind}" if self.member else f"not {self.what}"
        head = f"{self.file} does not hold {self.what}" if self.file else head
        name = f'"{self.member}"' if self.member else "it"
        return f"{head}: {name} should be {self.expected}, got {self.came}"

    def of(self, file: str) -> DamagedFile:
        """The same, said of a file."""
        return DamagedFile(self.what, self.member, self.expected, self.came, file)


@dataclass(frozen=True)
class Member:
    """One array or fact of a file.

    Attributes:
        name: Its name.
        kind: What its values are. A "number" may be NaN or infinite, a "finite" one may not. A
            "share" is from 0 to 1; what rounding adds to that is taken off when it is read.
        says: What it means, for the page of the format.
        shape: Its sizes; empty for a single value.
        low: Least value; None for no bound.
        high: Largest value, a number or the name of a size; None for no bound.
        refers_to: Name of the size that its values are numbers of, from 0 unless ``low`` is less.
        needed: False if older files lack it, or it may be unknown.
        null: Whether it may be null.
        parts: Of an object or of each object of a list: its members.
    """

    name: str
    kind: Kind
    says: str
    shape: tuple[Size, ...] = ()
    low: float | None = None
    high: float | str | None = None
    refers_to: str | None = None
    needed: bool = True
    null: bool = False
    parts: tuple[Member, ...] = ()

    @cached_property
    def wanted(self) -> str:
        """What it should be, in words."""
        sizes = " x ".join("n" if s is None else str(s) for s in self.shape)
        shape = f", {sizes}" if self.shape else ""
        return f"{_IN_WORDS[self.kind]}{shape}{self.bounds}" + (" or null" if self.null else "")

    @property
    def bounds(self) -> str:
        """The bounds on its values, in words; empty if there are none."""
        if self.refers_to is not None:
            return f", from {self.low or 0:g} and below the number of {self.refers_to}"
        low = "" if self.low is None else f", at least {self.low:g}"
        high = "" if self.high is None else f", at most {self.high}"
        return low + high


@dataclass(frozen=True)
class Relation:
    """Something that several members say together.

    Attributes:
        says: What has to hold, a sentence without its full stop.
        holds: Whether it does, given the members by name.
    """

    says: str
    holds: Callable[[Mapping[str, Any]], bool]


class Check:
    """Checks members against their table, and keeps the sizes met so far.

    Args:
        what: What the file holds, such as ``"a recorded run"``.
        sizes: Sizes that are known already; those that are met are added.
        where: Put before the names of members, such as ``"box 2: "``.

    Raises:
        DamagedFile: From every method, for a member that is not as it should be.
    """

    def __init__(self, what: str, sizes: Sizes | None = None, where: str = "") -> None:
        self.what = what
        self.sizes: Sizes = {} if sizes is None else sizes
        self.where = where

    def refuse(self, member: str, expected: str, came: Any) -> NoReturn:
        """Refuse a member."""
        shown = came if isinstance(came, str) else repr(came)
        raise DamagedFile(self.what, self.where + member, expected, shown[:_SHOWN])

    def expect(self, right: bool, member: str, expected: str, came: Any) -> None:
        """Refuse a member unless it is right."""
        if not right:
            self.refuse(member, expected, came)

    def facts(self, raw: Any, members: Iterable[Member], name: str = "it") -> dict[str, Any]:
        """Check facts read from JSON.

        Args:
            raw: The object.
            members: Its table.
            name: What to call it.

        Returns:
            Its known members; those that are missing or null and may be are None.
        """
        self.expect(isinstance(raw, dict), name, "an object", raw)
        return {m.name: self.fact(m, raw) for m in members}

    def fact(self, member: Member, raw: Mapping[str, Any]) -> Any:
        """Check one fact and return it; None if it may be missing and is."""
        if member.name not in raw:
            self.expect(not member.needed, member.name, member.wanted, "nothing: it is missing")
            return None
        value = raw[member.name]
        if value is None:
            self.expect(member.null or not member.needed, member.name, member.wanted, "null")
            return None
        if member.kind == "object" and member.shape:
            return self._objects(member, value)
        if member.shape:
            return self._list(member, value)
        return self._single(member, value)

    def header(self, member: Member, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        """Check the type and the shape of an array, before it is read."""
        right = dtype.kind in _DTYPES[member.kind]
        self.expect(right, member.name, member.wanted, f"values of type {dtype}")
        self._fit(member, tuple(shape))

    def values(self, member: Member, array: NDArray[Any]) -> NDArray[Any]:
        """Check the values of an array, once it has been read, and return them."""
        if member.kind in ("finite", "share") and not np.isfinite(array).all():
            self.refuse(member.name, member.wanted, "values that are not finite")
        low, high = self._range(member)
        if not array.size or (low is None and high is None):
            return array
        # Where NaN is allowed it is no value out of range.
        least, most = np.nanmin(array), np.nanmax(array)
        if (low is not None and least < low) or (high is not None and most > high):
            self.refuse(member.name, member.wanted, f"{least} to {most}")
        return np.clip(array, 0, 1) if member.kind == "share" else array

    def relations(self, relations: Iterable[Relation], members: Mapping[str, Any]) -> None:
        """Check what members say together."""
        for relation in relations:
            self.expect(relation.holds(members), "", f"such that {relation.says}", "another")

    def _fit(self, member: Member, shape: tuple[int, ...]) -> None:
        """Check a shape, and take the sizes from it that are not known yet."""
        wanted: list[int | str | None] = []
        for size in member.shape:
            known = self.sizes.get(size, size) if isinstance(size, str) else size
            wanted += known if isinstance(known, tuple) else [known]
        fits = len(wanted) == len(shape)
        for w, s in zip(wanted, shape, strict=False):
            fits = fits and (not isinstance(w, int) or w == s)
        if not fits:
            numbers = ", ".join("any" if w is None else str(w) for w in wanted)
            expected = f"{_IN_WORDS[member.kind]} of shape ({numbers})"
            self.refuse(member.name, expected, f"shape {shape}")
        self.sizes.update({w: s for w, s in zip(wanted, shape, strict=True) if isinstance(w, str)})

    def _range(self, member: Member) -> tuple[float | None, float | None]:
        if member.kind == "share":
            return -_ROUNDING, 1 + _ROUNDING
        if member.refers_to is not None:
            size = self.sizes.get(member.refers_to)
            if not isinstance(size, int):
                self.refuse(member.name, f"numbers of {member.refers_to}", "none to refer to")
            return member.low or 0, size - 1
        high = self.sizes[member.high] if isinstance(member.high, str) else member.high
        assert not isinstance(high, tuple)
        return member.low, high

    def _objects(self, member: Member, value: Any) -> list[dict[str, Any]]:
        self.expect(isinstance(value, list), member.name, "a list of objects", value)
        self._fit(member, (len(value),))
        found = []
        for k, one in enumerate(value):
            inner = Check(self.what, self.sizes, f"{self.where}{member.name} {k}: ")
            found.append(inner.facts(one, member.parts))
        return found

    def _list(self, member: Member, value: Any) -> Any:
        rows = [value]
        shape: tuple[int, ...] = ()
        depth = sum(
            len(size) if isinstance(size := self.sizes.get(s, 0), tuple) else 1
            for s in map(str, member.shape)
        )
        for _ in range(depth):
            same = all(isinstance(row, list) for row in rows)
            same = same and len({len(row) for row in rows}) <= 1
            self.expect(same, member.name, member.wanted, value)
            shape += (len(rows[0]) if rows else self._otherwise(member, len(shape)),)
            rows = [entry for row in rows for entry in row]
        self._fit(member, shape)
        low, high = self._range(member)
        for entry in rows:
            self.expect(_is(member.kind, entry), member.name, member.wanted, entry)
            if low is not None or high is not None:
                self._expect_within(member, entry, low, high)
        return np.clip(value, 0, 1).tolist() if member.kind == "share" else value

    def _otherwise(self, member: Member, axis: int) -> int:
        """Size of an axis below one of size 0, which no list can tell."""
        size = member.shape[axis]
        known = self.sizes.get(size, 0) if isinstance(size, str) else size
        return known if isinstance(known, int) else 0

    def _single(self, member: Member, value: Any) -> Any:
        if member.kind == "object":
            known = self.facts(value, member.parts, member.name)
            return {**value, **{name: known[name] for name in known if name in value}}
        self.expect(_is(member.kind, value), member.name, member.wanted, value)
        if type(value) in (int, float):
            self._expect_within(member, value, *self._range(member))
        return min(max(value, 0), 1) if member.kind == "share" else value

    def _expect_within(
        self, member: Member, value: Any, low: float | None, high: float | None
    ) -> None:
        # Where NaN is allowed it is no value out of range.
        right = (low is None or not value < low) and (high is None or not value > high)
        self.expect(right, member.name, member.wanted, value)


def _is(kind: Kind, value: Any) -> bool:
    """Whether one value from JSON is of a kind."""
    match kind:
        case "integer":
            # No wider than the arrays that hold the like.
            return type(value) is int and -(2**63) <= value < 2**63
        case "number" | "finite" | "share":
            return is_number(value) or (kind == "number" and type(value) is float)
        case "flag":
            return type(value) is bool
        case "text":
            return isinstance(value, str)
        case "numbers by name":
            return isinstance(value, dict) and all(map(is_number, value.values()))
    return isinstance(value, list if kind == "runs" else dict)


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number; true and false are none.

    Example:
        >>> [is_number(v) for v in (1, 2.5, True, float("nan"), 10**400, "1")]
        [True, True, False, False, False, False]
    """
    if type(value) is int:
        return -(2**1023) < value < 2**1023  # larger ones are no double
    return type(value) is float and math.isfinite(value)


def is_acyclic(edges: Iterable[Sequence[int]], n: int) -> bool:
    """Whether a graph on ``range(n)`` has no cycle and names no edge twice.

    Example:
        >>> is_acyclic([(0, 1), (1, 2)], 3), is_acyclic([(0, 1), (1, 0)], 2)
        (True, False)
        >>> is_acyclic([(0, 1), (0, 1)], 2)
        False
    """
    below: list[set[int]] = [set() for _ in range(n)]
    count = [0] * n
    for u, v in edges:
        if v in below[u]:
            return False
        below[u].add(v)
        count[v] += 1
    free = [k for k in range(n) if not count[k]]
    met = 0
    while free:
        met += 1
        for v in below[free.pop()]:
            count[v] -= 1
            if not count[v]:
                free.append(v)
    return met == n


def as_markdown(members: Iterable[Member], inside: str = "") -> list[str]:
    """The rows of a table of members, those of objects under the object."""
    rows = []
    for m in members:
        sizes = " x ".join(_size_in_words(s) for s in m.shape)
        name = f"`{inside}{m.name}`" + ("" if m.needed else " (may be missing)")
        what = _IN_WORDS[m.kind] + m.bounds + (" or null" if m.null else "")
        rows.append(f"| {name} | {what} | {sizes} | {m.says} |")
        rows += as_markdown(m.parts, f"{inside}{m.name}{'[]' if m.shape else ''}.")
    return rows


def _size_in_words(size: Size) -> str:
    return "any" if size is None else f"*{size}*" if isinstance(size, str) else str(size)

"""Summaries of the records of all runs: from the heads of the records, and only of what is new."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_morse.view.record import HEAD_BYTES, decode, read_summary, summary

# About 2 kB each for a few attractors: 100 MB at most. Soundness does not depend on it.
MAX_SUMMARIES = 50_000
# Seconds of a listing that are spent on series which seem to be as they were.
SECOND_LOOKS = 0.25


@dataclass(frozen=True)
class Event:
    """A record as the event files hold it.

    Attributes:
        step: Step of the event, by which the record is asked for.
        wall_time: When the event was written, in seconds since 1970.
        text: The record, JSON.
    """

    step: int
    wall_time: float
    text: bytes


@dataclass(frozen=True)
class Stamp:
    """What TensorBoard says of a series without reading it.

    Attributes:
        step: The largest step.
        wall_time: The latest time.
    """

    step: int
    wall_time: float


Key = tuple[str, str]  # run, tag
Read = Callable[[Key], Sequence[Event]]
_Entry = tuple[float, int, dict[str, Any]]  # wall time, length, summary


@dataclass
class _Series:
    stamp: Stamp
    entries: dict[int, _Entry]
    looked: float


class Listing:
    """Keeps the summaries of the last listing, so that the next one reads what is new only.

    A series is read when its stamp has changed. A stamp does not tell of a record that was written
    anew by a clock which has been set back; so every listing also looks again at series that seem
    unchanged, the ones not looked at for longest first, for a little while. In a series that is
    read, a summary is used again if wall time and length are those of the record it was made from.

    Series are read one by one, so that their records are never all in memory, and one listing at a
    time: requests that come together share the work.

    Args:
        limit: Summaries kept at most; series beyond are read at each listing.
        second_looks: Seconds spent on series that seem unchanged.
    """

    def __init__(self, limit: int = MAX_SUMMARIES, second_looks: float = SECOND_LOOKS) -> None:
        self._limit = limit
        self._second_looks = second_looks
        self._kept: dict[tuple[str, Key], _Series] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of summaries kept."""
        return sum(len(series.entries) for series in self._kept.values())

    def of(
        self, experiment: str, stamps: Mapping[Key, Stamp], read: Read
    ) -> dict[Key, list[dict[str, Any]]]:
        """Return the summaries of records by run and tag, in the order of their steps.

        What no longer occurs is forgotten.

        Args:
            experiment: TensorBoard's name of the experiment; empty for a local log directory.
            stamps: The series that are there.
            read: Reads one of them.

        Returns:
            For each run and tag a summary per record, see
            :func:`lightning_morse.view.record.summary`; ``{"step": step, "error": why}`` for a
            record that cannot be read, and as the only one of a series that cannot.
        """
        with self._lock:
            return self._listed(experiment, stamps, read)

    def one(self, experiment: str, key: Key, stamp: Stamp, read: Read) -> list[dict[str, Any]]:
        """Return the summaries of one series, as :meth:`of` does for all; it is read if it changed.

        Args:
            experiment: As for :meth:`of`.
            key: Run and tag.
            stamp: Of the series.
            read: Reads it.
        """
        with self._lock:
            series = self._kept.get((experiment, key))
            if series is None or series.stamp != stamp:
                before, series = series, _read(stamp, series, partial(read, key))
                if before is not None:  # the next listing of all counts what it keeps
                    self._kept[experiment, key] = series
            return [summary for _, _, summary in series.entries.values()]

    def _listed(
        self, experiment: str, stamps: Mapping[Key, Stamp], read: Read
    ) -> dict[Key, list[dict[str, Any]]]:
        before, self._kept = self._kept, {}
        found: dict[Key, list[dict[str, Any]]] = {}
        n_kept = 0
        due = self._due(experiment, stamps, before)
        until = time.monotonic() + self._second_looks
        for key, stamp in sorted(stamps.items(), key=lambda item: due[item[0]]):
            series = before.get((experiment, key))
            if series is None or series.stamp != stamp or time.monotonic() < until:
                series = _read(stamp, series, partial(read, key))
            found[key] = [summary for _, _, summary in series.entries.values()]
            if n_kept + len(series.entries) <= self._limit:
                self._kept[experiment, key] = series
                n_kept += len(series.entries)
        return found

    def _due(
        self, experiment: str, stamps: Mapping[Key, Stamp], before: Mapping[Any, _Series]
    ) -> dict[Key, float]:
        """When each series was looked at last."""
        known = {key: before.get((experiment, key)) for key in stamps}
        return {key: series.looked if series else 0.0 for key, series in known.items()}


def _read(stamp: Stamp, before: _Series | None, read: Callable[[], Sequence[Event]]) -> _Series:
    try:
        events = read()
    except Exception as error:  # whatever TensorBoard meets in one run spoils no other
        broken = {"step": stamp.step, "error": f"the run cannot be read: {error}"}
        # Not a stamp that comes again: the next listing tries once more.
        return _Series(Stamp(stamp.step, float("nan")), {stamp.step: (0.0, 0, broken)}, 0.0)
    entries: dict[int, _Entry] = {}
    for event in events:
        entry = before.entries.get(event.step) if before else None
        same = entry is not None and entry[:2] == (event.wall_time, len(event.text))
        known = entry[2] if entry is not None and same else _summary(event)
        entries[event.step] = (event.wall_time, len(event.text), known)
    return _Series(stamp, entries, time.monotonic())


def _summary(event: Event) -> dict[str, Any]:
    found = read_summary(event.text[:HEAD_BYTES], event.text[-1:])
    if found is None:  # of an earlier version, or damaged
        try:
            found = summary(decode(event.text))
        except ValueError as error:
            found = {"error": str(error)}
    return {**found, "step": event.step}

"""Summaries of the records of all runs, each record decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_morse.view.record import decode, summary

# About 2 kB each for a few attractors: 40 MB at most. Soundness does not depend on it.
MAX_SUMMARIES = 20_000


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


_Key = tuple[str, str, str, int]  # experiment, run, tag, step
_Entry = tuple[float, int, dict[str, Any]]  # wall time, length, summary


class Listing:
    """Keeps the summaries of the last listing, so that the next one decodes what is new only.

    TensorBoard offers no sign of a rewritten record but the wall time of its event. A summary is
    used again if experiment, run, tag, step, wall time and length are those of the record it was
    made from.

    Args:
        limit: Summaries kept at most; the records beyond are decoded at each listing.
    """

    def __init__(self, limit: int = MAX_SUMMARIES) -> None:
        self._limit = limit
        self._kept: dict[_Key, _Entry] = {}

    def __len__(self) -> int:
        """Return the number of summaries kept."""
        return len(self._kept)

    def of(
        self, experiment: str, series: Mapping[tuple[str, str], Iterable[Event]]
    ) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return the summaries of records by run and tag, in the order given.

        What no longer occurs is forgotten.

        Args:
            experiment: TensorBoard's name of the experiment; empty for a local log directory.
            series: The records of each run and tag.

        Returns:
            For each run and tag a summary per record, see
            :func:`lightning_morse.view.record.summary`; ``{"step": step, "error": why}`` for a
            record that cannot be read.
        """
        before = self._kept
        kept: dict[_Key, _Entry] = {}
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for (run, tag), events in series.items():
            found[run, tag] = []
            for event in events:
                key = (experiment, run, tag, event.step)
                stamp = (event.wall_time, len(event.text))
                entry = before.get(key)
                known = entry[2] if entry and entry[:2] == stamp else _summary(event)
                if len(kept) < self._limit:
                    kept[key] = (*stamp, known)
                found[run, tag].append(known)
        # Set at once: of requests that are answered at the same time the last one is kept.
        self._kept = kept
        return found


def _summary(event: Event) -> dict[str, Any]:
    try:
        return {**summary(decode(event.text)), "step": event.step}
    except ValueError as error:
        return {"step": event.step, "error": str(error)}

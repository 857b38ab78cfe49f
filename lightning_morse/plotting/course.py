"""The course of a run, read from the rows of a history: what the figure of a run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.conley.reach import UNDECIDED

_ROOM = 0.02  # beside a mark at the beginning or end, as a share of the run


@dataclass(frozen=True)
class Gap:
    """Something that was due and is not known.

    Attributes:
        first: Step of the first analysis that is missing.
        last: Step of the last one.
        count: How many are missing.
        why: The reason.
        failed: Whether it was tried.
    """

    first: float
    last: float
    count: int
    why: str
    failed: bool


@dataclass(frozen=True, eq=False)
class Course:
    """The course of a run; one entry per analysis that succeeded, NaN where nothing is known.

    Attributes:
        steps: Steps of the analyses, shape ``(n,)``.
        left: Where the column of each begins, likewise: half way after what was due before.
        right: Where it ends.
        loss: Loss of the weights.
        floor: Loss at the attractor of their basin.
        way_out: Loss at the lowest saddle above it.
        mu: Bound on the probability that the number of attractors is right.
        current: Identity of the basin of the weights; negative where they are in none.
        undecided: Share of the box.
        escape: Share of the box.
        shares: Shares of the box of certain basins, by identity.
        switches: Where the weights have certainly changed basins since the analysis before.
        forks: Where two basins have been found in place of one, likewise.
        gaps: What is missing, in order.
    """

    steps: Array
    left: Array
    right: Array
    loss: Array
    floor: Array
    way_out: Array
    mu: Array
    current: Array
    undecided: Array
    escape: Array
    shares: dict[int, Array]
    switches: Array
    forks: Array
    gaps: tuple[Gap, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """Where the run begins and ends, as far as it is shown."""
        missing = [step for gap in self.gaps for step in (gap.first, gap.last)]
        at = [*self.left, *self.right, *missing]
        low, high = min(at), max(at)
        room = _ROOM * (high - low) or 1.0
        # Columns fill the page, marks at its edges need room.
        return low - room * (low in missing), high + room * (high in missing)


def read_course(history: Sequence[Mapping[str, Any]]) -> Course:
    """Read the rows of a history.

    Args:
        history: Rows of :attr:`lightning_morse.MorseMonitor.history`, and of ``left_out``, in any
            order.

    Raises:
        ValueError: If there is no row, or one is not of such a history.
    """
    if not history:
        raise ValueError(
            "history must hold at least 1 analysis, got none. Draw it later in the run"
        )
    try:
        rows = sorted(map(_plain, history), key=lambda row: float(row["step"]))
        gaps = [None if _is_known(row) else _gap(row) for row in rows]
        known = [row for row, gap in zip(rows, gaps, strict=True) if gap is None]
        return _course(known, *_columns(rows, gaps), tuple(g for g in gaps if g is not None))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"history must be rows of MorseMonitor.history, got one without {error}"
        ) from error


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the prefix of its monitor."""
    return {k.split("/")[-1]: v for k, v in row.items()}


def _is_known(row: Mapping[str, Any]) -> bool:
    return "until" not in row and not row["failed"]


def _gap(row: Mapping[str, Any]) -> Gap:
    first = float(row["step"])
    why = str(row.get("why") or "no reason kept")
    if "until" in row:
        return Gap(first, float(row["until"]), int(row["count"]), why, failed=False)
    return Gap(first, first, 1, why, failed=True)


def _columns(
    rows: Sequence[Mapping[str, Any]], gaps: Sequence[Gap | None]
) -> tuple[Array, Array, Array]:
    """Steps of the analyses that succeeded, and where their columns begin and end."""
    steps = np.array([row["step"] for row in rows], dtype=np.float64)
    last = np.array([s if g is None else g.last for s, g in zip(steps, gaps, strict=True)])
    middle = 0.5 * (last[:-1] + steps[1:])
    if not len(middle):
        middle = np.array([steps[0] - 1.0])
        left, right = middle, 2 * steps - middle
    else:
        left = np.array([2 * steps[0] - middle[0], *middle])
        right = np.array([*middle, 2 * last[-1] - middle[-1]])
    known = np.array([gap is None for gap in gaps])
    return steps[known], left[known], right[known]


def _course(
    rows: Sequence[Mapping[str, Any]],
    steps: Array,
    left: Array,
    right: Array,
    gaps: tuple[Gap, ...],
) -> Course:
    def values(name: str) -> Array:
        return np.array([row[name] for row in rows], dtype=np.float64)

    current = np.nan_to_num(values("identity_current"), nan=float(UNDECIDED))
    # Of histories that were kept without it, and of maps, for which no loss is evaluated.
    loss = np.array([row.get("loss") for row in rows], dtype=np.float64)
    barrier = values("barrier")
    floor = np.where(current >= 0, loss - values("headroom"), np.nan)
    switches = values("basin_switches")
    # Not in histories of earlier versions.
    forks = np.array([row.get("basin_forks", 0.0) for row in rows], dtype=np.float64)
    basins = [{int(i): float(v) for i, v in row["basins"].items()} for row in rows]
    names = sorted({i for row in basins for i in row})
    return Course(
        steps=steps,
        left=left,
        right=right,
        loss=loss,
        floor=floor,
        way_out=np.where(barrier > 0, floor + barrier, np.nan),
        mu=values("mu"),
        current=current,
        undecided=values("undecided"),
        escape=values("escape"),
        shares={i: np.array([row.get(i, 0.0) for row in basins]) for i in names},
        switches=left[1:][np.diff(switches) > 0],
        forks=left[1:][np.diff(forks) > 0],
        gaps=gaps,
    )

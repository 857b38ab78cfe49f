"""How areas, Morse sets and the trajectory look in the figures of the basins, and their legend."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lightning_morse._typing import Array
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.plotting.style import DARK, DIVERGED_COLOR, ESCAPE_COLOR, tint
from lightning_morse.result import MorseAnalysis, MorseSet
from lightning_morse.words import kind_with_index, percent

# Label of cells where the loss is not finite or a map is unknown, beside ESCAPES and UNDECIDED.
DIVERGED = -3

MAX_LEGEND = 6  # attractors listed by name: more would be taller than the figure

SAMPLE: dict[str, Any] = {
    "marker": "o",
    "ms": 4.5,
    "mfc": "white",
    "mec": DARK,
    "linestyle": "none",
}
START: dict[str, Any] = {
    "marker": "s",
    "ms": 6,
    "mfc": "white",
    "mec": "black",
    "linestyle": "none",
}
NOW: dict[str, Any] = {
    "marker": "*",
    "ms": 23,  # wider than an attractor's disc: both are seen where they coincide
    "mfc": "white",
    "mec": "black",
    "mew": 1.3,
    "linestyle": "none",
}
# Index 1, the saddles that separate basins, stands out from the others.
_SADDLE_FACES: dict[int | None, str] = {None: "#9a9a9a", 1: "white"}


@dataclass(frozen=True)
class Seen:
    """What of an analysis its figure shows.

    Attributes:
        labels: Labels of cells, with :data:`DIVERGED`.
        sets: Numbers of Morse sets.
        exits: Whether faces are named through which the box may be left.
    """

    labels: Collection[int]
    sets: Collection[int]
    exits: bool = True

    @classmethod
    def everything(cls, result: MorseAnalysis) -> Seen:
        """All of it."""
        labels = {int(v) for box in result.boxes for v in np.unique(box.labels)}
        if any(box.diverged.any() for box in result.boxes):
            labels.add(DIVERGED)
        return cls(labels, range(result.n_morse_sets))


def area_looks(colors: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    """Properties of the patch for each label of a cell: a basin, undecided, escapes, diverged."""
    looks: dict[int, dict[str, Any]] = {
        UNDECIDED: {"facecolor": "white", "edgecolor": "#8a8a8a", "hatch": "////"},
        ESCAPES: {"facecolor": ESCAPE_COLOR, "edgecolor": "none"},
        DIVERGED: {"facecolor": DIVERGED_COLOR, "edgecolor": "none"},
    }
    for i, color in colors.items():
        looks[i] = {"facecolor": tint(color), "edgecolor": "none"}
    return looks


def set_look(m: MorseSet, dim: int, color: str | None) -> dict[str, Any]:
    """Properties of the marker of a Morse set; ``color`` is that of its basin, if it has one."""
    look: dict[str, Any] = {"linestyle": "none", "mec": "black", "mfc": "white", "mew": 1.2}
    if m.is_attractor:
        return look | {"marker": "o", "ms": 14, "mfc": color}
    if not m.resolved:
        return look | {"marker": "D", "ms": 7}
    if m.index == dim:
        return look | {"marker": "^", "ms": 10}
    return look | {"marker": "X", "ms": 10, "mfc": _SADDLE_FACES.get(m.index, DARK)}


def legend_handles(
    result: MorseAnalysis,
    colors: Mapping[int, str],
    identities: Mapping[int, int],
    trajectory: bool,
    now: Array | None,
    seen: Seen,
) -> list[Artist]:
    """Legend of what the figure shows, and of nothing else.

    Args:
        result: The analysis.
        colors: Colour of each attractor, by the number of its Morse set.
        identities: Identity of each attractor across analyses; empty if there are none.
        trajectory: Whether a trajectory is drawn.
        now: Current weights in coordinates of the box, shape ``(d,)``, if they are drawn.
        seen: What of the analysis is drawn.
    """
    dim = result.grid.dim
    handles: list[Artist] = list(_attractor_handles(result, colors, identities, seen))
    others = [m for i, m in enumerate(result.morse_sets) if i in seen.sets and not m.is_attractor]
    kinds = {kind_with_index(m.resolved, m.index, dim): m for m in others}
    for kind, m in sorted(kinds.items()):
        handles.append(Line2D([], [], **set_look(m, dim, None) | {"ms": 8}, label=kind))
    looks = area_looks(colors)
    diverged = "unknown" if result.is_map else "diverged"
    for value, name in ((UNDECIDED, "undecided"), (ESCAPES, "escapes"), (DIVERGED, diverged)):
        if value in seen.labels:
            handles.append(Patch(**looks[value], label=name))
    if dim > 1 and seen.exits and result.exit_volumes.any():
        handles.append(Line2D([], [], linestyle="none", label="→ share that may leave"))
    if dim == 1 and not result.is_map:
        handles.append(Line2D([], [], **SAMPLE, label="loss samples"))
    if trajectory:
        handles.append(Line2D([], [], color="black", marker=".", ms=5, label="trajectory"))
        handles.append(Line2D([], [], **START, label="its start"))
    if now is not None:
        outside = np.any((now < result.grid.lower) | (now > result.grid.upper))
        label = "now: outside the box" if outside else "now"
        handles.append(Line2D([], [], **NOW | {"ms": 13}, label=label))
    return handles


def _attractor_handles(
    result: MorseAnalysis, colors: Mapping[int, str], identities: Mapping[int, int], seen: Seen
) -> Iterator[Line2D]:
    """The attractors seen with the certain shares of their basins; others, and many, summed up."""
    shares = result.basin_volumes
    named_as_numbered = all(k == v for k, v in identities.items())
    listed = [i for i in result.attractors if i in seen.sets or i in seen.labels][:MAX_LEGEND]
    rest = [i for i in result.attractors if i not in listed]
    for i in listed:
        look = set_look(result.morse_sets[i], result.grid.dim, colors[i]) | {"ms": 9}
        known = "" if named_as_numbered else f" (identity {identities[i]})"
        yield Line2D([], [], **look, label=f"attractor {i}{known}: {percent(shares[i])}")
    if rest:
        share = percent(sum(shares[i] for i in rest))
        yield Line2D([], [], linestyle="none", label=f"{len(rest)} more: {share}")

"""The result of an analysis: what it holds, what can be asked of it, how it is stored."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.atomic import written_whole
from lightning_morse.conley.reach import ESCAPES, UNDECIDED, Reach
from lightning_morse.grids.cubical import CubicalGrid

FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False)
class MorseSet:
    """One recurrent component of the outer approximation that may hold a critical point.

    Attributes:
        cells: Numbers of its grid cells, ascending, shape ``(k,)``.
        is_attractor: Whether it is minimal and no path leads from it to the exterior. On the
            event of the band at the level asked for, it then holds an attractor of the true flow.
        resolved: Whether it is certain that it hides no further attractor: for an attractor, that
            it holds exactly one; for another Morse set, that it holds none.
        index: Morse index (number of unstable directions, 0 to ``d``) shared by every critical
            point it may hold, or None where that is not certain.
        center: Best estimate of its critical point, shape ``(d,)``.
        loss: Surrogate loss at ``center``, in the units of the loss.
        volume: Fraction of the box its cells take.
        mu: For an attractor a lower bound on the probability that its block, grown with the band
            as far as it stands, holds an attractor of the true flow, apart from the blocks of the
            others; 0 if the samples refute the surrogate. None for other Morse sets. See
            :mod:`lightning_morse.analysis.ladder`.
    """

    cells: Cells
    is_attractor: bool
    resolved: bool
    index: int | None
    center: Array
    loss: float
    volume: float
    mu: float | None = None


def short_of_one(mu: float) -> str:
    """Write a lower bound on a probability, by what it lacks where that is little.

    Neither way is it rounded up, by more than the rounding of a double.

    Example:
        >>> short_of_one(0.95879), short_of_one(1 - 3.21e-8), short_of_one(0.0)
        ('0.9587', '1 - 3.3e-08', '0')
    """
    if mu < 0.9999:
        return f"{Decimal(repr(float(mu))).quantize(Decimal('0.0001'), ROUND_FLOOR).normalize():f}"
    rounding = Decimal("1.2e-16")
    lacking = max(Decimal(1 - mu) - rounding, rounding)
    unit = Decimal(1).scaleb(lacking.adjusted() - 1)
    return f"1 - {float(lacking.quantize(unit, ROUND_CEILING)):.1e}"


def _called(m: MorseSet, dim: int) -> str:
    """What a Morse set is called in a table."""
    if m.is_attractor:
        return "attractor" if m.resolved else "attractor(s)"
    if not m.resolved:
        return "unresolved"
    if m.index is None:
        return "saddle or repeller"
    return "repeller" if m.index == dim else "saddle"


@dataclass(frozen=True, eq=False)
class Ladder:
    """Which attractors stand, have merged or have vanished as the confidence goes up.

    The number of blocks never rises along the ladder; see :mod:`lightning_morse.analysis.ladder`.

    Attributes:
        levels: The confidences, ascending, shape ``(k,)``; the first is the one asked for.
        blocks: At each level, for each attractor, the lowest number of an attractor in the same
            block: its own if it stands alone or is the first of those that have merged, -1 once it
            has vanished; shape ``(k, n_attractors)``.
    """

    levels: Array
    blocks: Cells

    @property
    def counts(self) -> Cells:
        """Number of blocks at each level, shape ``(k,)``."""
        return np.array([np.unique(row[row >= 0]).size for row in self.blocks], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class MorseAnalysis:
    """The Morse graph of a loss on a box, its basins, and how sure all of it is.

    Everything here holds together with probability at least ``confidence``, given that the loss is
    a sample path of the fitted surrogate (see :mod:`lightning_morse.bands.gradient` for the
    premise). What ``claim`` says of the attractors holds with probability at least ``mu``, often
    much more (:mod:`lightning_morse.analysis.ladder`); Morse sets, their order, indices and labels
    with ``confidence``.

    Attributes:
        grid: The cubical grid of the box.
        morse_sets: The Morse sets; attractors come first, by ascending loss, then the others,
            likewise.
        graph: Directed graph on ``range(n_morse_sets)``, edges downhill, transitively reduced.
        labels: For each cell the number of the attractor whose basin certainly holds it, -1 where
            undecided, -2 where every path leaves the box; shape ``(grid.size,)``.
        diverged: Cells nearest to a sample whose loss was not finite, shape ``(grid.size,)``.
            They count as exterior.
        exit_volumes: Fraction of the box that escapes and can do so through each face, shape
            ``(d, 2)``: axis, then lower and upper face.
        mu: Lower bound on the probability that ``claim`` is true; at least ``confidence``, but 0 if
            the samples refute the surrogate (see :mod:`lightning_morse.gp.calibration`): then
            nothing here is certain at any level.
        confidence: The level that was asked for.
        mean_loss: Surrogate mean of the loss at the vertices of the grid, its own units, shape
            ``shape + 1``.
        samples: Where the loss was evaluated, shape ``(n, d)``; row 0 is the centre of the box.
        sample_losses: The losses there, shape ``(n,)``; not finite where it diverged.
        calibration: Factor by which the surrogate's deviations were inflated because its
            leave-one-out residuals were larger than its own model allows; 1 if they were not.
        surrogate: Plain facts about the fitted surrogate (kernel, lengthscales, ...).
        seconds: Wall time of each stage.
        ladder: Which attractors still stand as the confidence goes up.
        loss_deviation: Deviation of the surrogate at the vertices, shape and units of
            ``mean_loss``: that of the warped loss (calibrated, without the noise of a sample) times
            the slope of the inverse warp at its mean. For one vertex by itself, and to first order:
            it says little where it is not small against ``mean_loss - surrogate["loss_floor"]``.
            None where no loss was fitted, and for older files.
        reach: Which Morse sets each cell may reach and whether it may leave the box; None for
            older files.
    """

    grid: CubicalGrid
    morse_sets: tuple[MorseSet, ...]
    graph: nx.DiGraph
    labels: NDArray[np.int32]
    diverged: Mask
    exit_volumes: Array
    mu: float
    confidence: float
    mean_loss: Array
    samples: Array
    sample_losses: Array
    calibration: float
    surrogate: Mapping[str, Any]
    seconds: Mapping[str, float]
    ladder: Ladder
    loss_deviation: Array | None = None
    reach: Reach | None = None

    @property
    def attractors(self) -> tuple[int, ...]:
        """Numbers of the Morse sets that are attractors."""
        return tuple(i for i, m in enumerate(self.morse_sets) if m.is_attractor)

    @property
    def n_attractors(self) -> int:
        """Number of attractors; exact if ``n_unresolved`` is 0, else a lower bound."""
        return len(self.attractors)

    @property
    def n_morse_sets(self) -> int:
        """Number of Morse sets, attractors included."""
        return len(self.morse_sets)

    @property
    def n_unresolved(self) -> int:
        """Number of Morse sets that may hide a further attractor; 0: the count is exact."""
        return sum(not m.resolved for m in self.morse_sets)

    @property
    def claim(self) -> str:
        """What is said of the number of attractors, such as ``"at least 3 attractors"``."""
        n = self.n_attractors
        if n == 0 and self.n_unresolved and self.mu > 0:
            return "no certain attractor"
        how = "" if self.mu == 0 else ("at least " if self.n_unresolved else "exactly ")
        number = f"{how}{n} attractor{'' if n == 1 else 's'}"
        return number if how else f"{number}, not certain"

    @property
    def basin_volumes(self) -> dict[int, float]:
        """Fraction of the box that is certainly in the basin of each attractor."""
        return {i: float(np.mean(self.labels == i)) for i in self.attractors}

    @property
    def escape(self) -> float:
        """Fraction of the box that certainly leaves it."""
        return float(np.mean(self.labels == ESCAPES))

    @property
    def undecided(self) -> float:
        """Fraction of the box of which nothing is certain."""
        return float(np.mean(self.labels == UNDECIDED))

    def basin_of(self, x: ArrayLike) -> Cells:
        """Number of the attractor in whose basin each point certainly lies.

        Args:
            x: Points, shape ``(n, d)``.

        Returns:
            Shape ``(n,)``: number of the attractor's Morse set, -1 where undecided, -2 where the
            point escapes or is outside the box.

        Raises:
            ValueError: If the shape does not match the box or a coordinate is NaN.
        """
        cells = self.grid.cell_of(x)
        return np.where(cells < 0, ESCAPES, self.labels[cells]).astype(np.int64)

    def barrier(self, attractor: int) -> float:
        """Loss from an attractor up to the lowest saddle above it; NaN if there is none.

        That is where the basin can be left at the least cost inside the slice. Morse sets above it
        that may hold a critical point of index 1 count as saddles. Both losses are surrogate means.

        Args:
            attractor: Number of an attractor's Morse set.

        Raises:
            ValueError: If that Morse set is not an attractor.
        """
        if attractor not in self.attractors:
            raise ValueError(
                f"attractor must be one of the attractors {self.attractors}, got {attractor!r}"
            )
        above = [self.morse_sets[i] for i in nx.ancestors(self.graph, attractor)]
        passes = [m.loss for m in above if m.index is None or m.index <= 1]
        return min(passes, default=math.nan) - self.morse_sets[attractor].loss

    def table(self) -> str:
        """Return the Morse sets as a Markdown table, one row each."""
        rows = ["| set | what | Morse index | loss | volume | basin | mu | center |"]
        rows.append("|---|---|---|---|---|---|---|---|")
        volumes = self.basin_volumes
        for i, m in enumerate(self.morse_sets):
            what = _called(m, self.grid.dim)
            center = ", ".join(f"{c:.3g}" for c in m.center)
            basin = f"{volumes[i]:.1%}" if m.is_attractor else ""
            index = "?" if m.index is None else str(m.index)
            mu = "" if m.mu is None else short_of_one(m.mu)
            rows.append(
                f"| {i} | {what} | {index} | {m.loss:.4g} | {m.volume:.2%} | {basin} | {mu} "
                f"| ({center}) |"
            )
        return "\n".join(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the analysis to one file, in whole or not at all.

        The file is a NumPy archive without pickled objects; :meth:`load` reads it back.

        Args:
            path: Where to; an existing file is replaced.
        """
        facts = {
            "format": FORMAT_VERSION,
            "shape": list(self.grid.shape),
            "edges": sorted(map(list, self.graph.edges)),
            "sets": [
                {
                    "is_attractor": m.is_attractor,
                    "resolved": m.resolved,
                    "index": m.index,
                    "loss": m.loss,
                    "volume": m.volume,
                    "mu": m.mu,
                }
                for m in self.morse_sets
            ],
            "mu": self.mu,
            "confidence": self.confidence,
            "calibration": self.calibration,
            "surrogate": dict(self.surrogate),
            "seconds": dict(self.seconds),
        }
        optional: dict[str, Any] = {}
        if self.loss_deviation is not None:
            optional["loss_deviation"] = self.loss_deviation
        if self.reach is not None:
            optional.update(reach_kinds=self.reach.kinds, reach_of=self.reach.of)
        with written_whole(path) as file:
            np.savez_compressed(
                file,
                facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
                lower=self.grid.lower,
                upper=self.grid.upper,
                cells=np.concatenate([m.cells for m in self.morse_sets] or [np.zeros(0, int)]),
                cell_counts=np.array([m.cells.size for m in self.morse_sets], dtype=np.int64),
                centers=np.array([m.center for m in self.morse_sets]).reshape(-1, self.grid.dim),
                labels=self.labels,
                diverged=self.diverged,
                exit_volumes=self.exit_volumes,
                mean_loss=self.mean_loss,
                samples=self.samples,
                sample_losses=self.sample_losses,
                ladder_levels=self.ladder.levels,
                ladder_blocks=self.ladder.blocks,
                **optional,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MorseAnalysis:
        """Read an analysis written by :meth:`save`.

        Args:
            path: The file.

        Raises:
            ValueError: If the file is not such an archive, is damaged, or of another format (files
                of format 1 have no ladder and are not read).
            FileNotFoundError: If there is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive.items())
            facts = json.loads(arrays.pop("facts").tobytes().decode())
            version = facts["format"]
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"its format is {version}, this version reads {FORMAT_VERSION}; analyse again"
                )
            grid = CubicalGrid(arrays["lower"], arrays["upper"], facts["shape"])
            cells = np.split(arrays["cells"], np.cumsum(arrays["cell_counts"])[:-1])
            sets = tuple(
                MorseSet(cells=cells[i], center=arrays["centers"][i], **fact)
                for i, fact in enumerate(facts["sets"])
            )
            if arrays["labels"].shape != (grid.size,):
                raise ValueError(f"it has {arrays['labels'].shape} labels for {grid.size} cells")
            deviation = arrays.get("loss_deviation")
            if deviation is not None and deviation.shape != arrays["mean_loss"].shape:
                raise ValueError(
                    f"it has deviations of shape {deviation.shape} for losses of shape "
                    f"{arrays['mean_loss'].shape}"
                )
            graph = nx.DiGraph()
            graph.add_nodes_from(range(len(sets)))
            graph.add_edges_from(facts["edges"])
            return cls(
                grid=grid,
                morse_sets=sets,
                graph=graph,
                labels=arrays["labels"],
                diverged=arrays["diverged"],
                exit_volumes=arrays["exit_volumes"],
                mu=facts["mu"],
                confidence=facts["confidence"],
                mean_loss=arrays["mean_loss"],
                samples=arrays["samples"],
                sample_losses=arrays["sample_losses"],
                calibration=facts["calibration"],
                surrogate=facts["surrogate"],
                seconds=facts["seconds"],
                ladder=Ladder(arrays["ladder_levels"], arrays["ladder_blocks"]),
                loss_deviation=deviation,
                reach=_stored_reach(arrays, sets),
            )
        except (ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as err:
            raise ValueError(f"{path} does not hold a Morse analysis: {err}") from err


def _stored_reach(arrays: Mapping[str, Any], sets: tuple[MorseSet, ...]) -> Reach | None:
    """What the cells may reach as an archive has it; it has to say the same as the labels."""
    if "reach_of" not in arrays:
        return None
    reach = Reach(arrays["reach_kinds"], arrays["reach_of"])
    if reach.kinds.shape[1] != len(sets) + 1:
        raise ValueError(f"it says of {reach.kinds.shape[1] - 1} Morse sets who reaches them")
    implied = reach.labels(i for i, m in enumerate(sets) if m.is_attractor)
    if not np.array_equal(implied, arrays["labels"]):
        raise ValueError("its labels are not those of what its cells may reach")
    return reach

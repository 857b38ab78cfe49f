"""The record of an analysis, and the questions it answers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import ESCAPES, UNDECIDED, Reach
from lightning_morse.facts import Evidence, MapFacts, SurrogateFacts
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.grids.shares import share_of_box
from lightning_morse.result.parts import Box, Curvature, Ladder, MorseSet, WayOut
from lightning_morse.tables import written
from lightning_morse.words import NO_CLAIM, kind_of_set, percent, short_of_one


@dataclass(frozen=True, eq=False)
class MorseAnalysis:
    """The Morse graph of a loss on a box, its basins, and how certain all of it is.

    All statements hold simultaneously with probability at least ``confidence``, given that the loss
    is a sample path of the fitted surrogate (see :mod:`lightning_morse.bands.gradient` for the
    premise). The ``claim`` about the number of attractors holds with probability at least ``mu``,
    often much more (:mod:`lightning_morse.analysis.ladder`); Morse sets, their order, indices and
    labels with ``confidence``.

    Attributes:
        grid: The cubical grid of the box.
        morse_sets: The Morse sets; attractors come first, by ascending loss, then the others,
            likewise.
        graph: Directed graph on ``range(n_morse_sets)``, edges downhill, transitively reduced.
        labels: For each cell the number of the attractor whose basin certainly contains it, -1
            where undecided, -2 where every path leaves the box or comes to a diverged cell; shape
            ``(grid.size,)``. For a learnt map, -2 is for leaving alone: where a path may come to an
            unknown cell nothing is decided.
        diverged: Cells whose nearest sample has a loss that is not finite, shape ``(grid.size,)``;
            for a learnt map, unknown cells: those where the pairs say too little. They count as
            exterior: a set that may get there is no attractor.
        exit_volumes: Fraction of the box that escapes and can do so through each face, shape
            ``(d, 2)``: axis, then lower and upper face.
        mu: Lower bound on the probability that ``claim`` is true of attractors wider than
            ``finest``: ``mu_model``, which is at least ``confidence``, times the probability that
            the model is adequate (:mod:`lightning_morse.analysis.evidence`) and, for an exact
            number, that of a loss without kinks (:mod:`lightning_morse.gp.kinks`). It is 0 where
            nothing is claimed: if there is no certain attractor while something is unresolved, and
            if the samples refute the surrogate (see :mod:`lightning_morse.gp.calibration`), so that
            nothing here is certain at any level.
        confidence: The level that was asked for.
        mean_loss: Surrogate mean of the loss at the vertices of the grid, in the units of the loss,
            shape ``shape + 1``.
        samples: Where the loss was evaluated, shape ``(n, d)``; row 0 is the centre of the box that
            was given. The last ``n_measured`` rows measure losses that are reported; no surrogate
            has seen them.
        sample_losses: The losses there, shape ``(n,)``; not finite where the loss diverged.
        calibration: Factor by which the surrogate's deviations were inflated because its
            leave-one-out residuals were larger than its own model allows; 1 if they were not.
        surrogate: Facts about the fitted surrogate: :class:`SurrogateFacts
            <lightning_morse.facts.SurrogateFacts>` for a loss, :class:`MapFacts
            <lightning_morse.facts.MapFacts>` for a learnt map; None where nothing is known.
        seconds: Wall time of each stage.
        ladder: The filtration of the attractors over confidence.
        loss_deviation: Deviation of the surrogate at the vertices, shape and units of
            ``mean_loss``: that of the warped loss (calibrated, without the noise of a sample) times
            the slope of the inverse warp at its mean. It holds for one vertex at a time and to
            first order: it says little unless it is small compared with ``mean_loss -
            surrogate.loss_floor``. None where no loss was fitted, and for older files.
        reach: Which Morse sets each cell may reach and whether it may leave the box; None for
            older files.
        inner: The boxes inside, each with a surrogate of its own; ``boxes`` has all of them.
        faces: As in :class:`Box`.
        way_out: Where the mean flow leaves from the point that the analysis was asked about; None
            if it was asked about none, or that one does not certainly leave.
        n_measured: Number of evaluations that only measure losses that are reported.
        evidence: How far the samples bear out the model; None for learnt maps and older files,
            where ``mu`` is the bound given the model.
        curvature: The largest curvature at the point that the analysis was asked about; None if it
            was asked about none, where the samples refute the surrogate, and for older files.
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
    surrogate: SurrogateFacts | MapFacts | None
    seconds: Mapping[str, float]
    ladder: Ladder
    loss_deviation: Array | None = None
    reach: Reach | None = None
    inner: tuple[Box, ...] = ()
    faces: Mask | None = None
    way_out: WayOut | None = None
    n_measured: int = 0
    evidence: Evidence | None = None
    curvature: Curvature | None = None

    @property
    def mu_model(self) -> float:
        """Lower bound on the probability that ``claim`` is true given the fitted model."""
        return self.mu if self.evidence is None else self.evidence.mu_model

    @property
    def finest(self) -> float:
        """Width of the narrowest well that would have shown, as a share of the box; or NaN.

        The well of an attractor is the part of its basin below the lowest pass out of it. With
        probability 0.95 for one at a random place
        (:func:`lightning_morse.analysis.evidence.finest_width`).
        """
        return math.nan if self.evidence is None else self.evidence.finest

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The tower of boxes, the outermost first; each comes after the one around it."""
        n_inner = sum(box.n_samples for box in self.inner)
        root = Box(
            grid=self.grid,
            parent=-1,
            labels=self.labels,
            diverged=self.diverged,
            mean_loss=self.mean_loss,
            calibration=self.calibration,
            surrogate=self.surrogate,
            loss_deviation=self.loss_deviation,
            reach=self.reach,
            sets=self._owner,
            n_samples=len(self.samples) - n_inner - self.n_measured,
            faces=self.faces,
        )
        return root, *self.inner

    @cached_property
    def _owner(self) -> NDArray[np.int32]:
        """Number of the Morse set that each cell belongs to, -1 for none."""
        owner = np.full(self.grid.size, -1, dtype=np.int32)
        for i, m in enumerate(self.morse_sets):
            owner[m.cells] = i
        return owner

    def box_at(self, x: ArrayLike) -> Cells:
        """Number of the finest box that decides each point.

        Args:
            x: Points, shape ``(n, d)``.

        Returns:
            Shape ``(n,)``: a number in ``boxes``; -1 where no box decides the point, or it lies
            outside of all.
        """
        within = [box.grid.cell_of(x) for box in self.boxes]
        out = np.full(len(within[0]), -1, dtype=np.int64)
        for k, (box, cells) in enumerate(zip(self.boxes, within, strict=True)):
            out[(cells >= 0) & (box.labels[cells] != UNDECIDED)] = k
        return out

    @property
    def attractors(self) -> tuple[int, ...]:
        """Numbers of the Morse sets that are attractors."""
        return tuple(i for i, m in enumerate(self.morse_sets) if m.is_attractor)

    @property
    def n_attractors(self) -> int:
        """Number of attractors; a lower bound unless ``is_exact``."""
        return len(self.attractors)

    @property
    def n_morse_sets(self) -> int:
        """Number of Morse sets, attractors included."""
        return len(self.morse_sets)

    @property
    def n_unresolved(self) -> int:
        """Number of Morse sets that may hide a further attractor."""
        return sum(not m.resolved for m in self.morse_sets)

    @property
    def is_map(self) -> bool:
        """Whether this is the analysis of a learnt map, which has no loss."""
        return isinstance(self.surrogate, MapFacts)

    @property
    def is_exact(self) -> bool:
        """Whether the number of attractors is exact, not a lower bound.

        It is if no Morse set may hide a further one and, for a learnt map, no cell is unknown.
        """
        return not self.n_unresolved and not (self.is_map and bool(self.diverged.any()))

    @property
    def claim(self) -> str:
        """What is claimed about the number of attractors, such as ``"at least 3 attractors"``.

        "No certain attractor" claims nothing, and so does a number that is "not certain": then
        ``mu`` is 0.
        """
        n = self.n_attractors
        if n == 0 and not self.is_exact:
            return NO_CLAIM
        how = "" if self.mu == 0 else ("exactly " if self.is_exact else "at least ")
        number = f"{how}{n} attractor{'' if n == 1 else 's'}"
        return number if how else f"{number}, not certain"

    @property
    def claim_in_full(self) -> str:
        """The claim with its scale, such as ``"exactly 2 attractors wider than 8 % of the box"``.

        Samples say nothing of what is narrower than the gaps between them.
        """
        if self.mu == 0 or math.isnan(self.finest):
            return self.claim
        return f"{self.claim} wider than {percent(self.finest)} of the box"

    @property
    def basin_volumes(self) -> dict[int, float]:
        """Fraction of the box that is certainly in the basin of each attractor."""
        return {i: self._share(i) for i in self.attractors}

    @property
    def escape(self) -> float:
        """Fraction of the box labelled -2 (see ``labels``): that certainly leaves it."""
        return self._share(ESCAPES)

    @property
    def undecided(self) -> float:
        """Fraction of the box about which nothing is certain."""
        return self._share(UNDECIDED)

    def _share(self, label: int) -> float:
        """Fraction of the box whose finest cells have a label."""
        if not self.inner:
            return share_of_box(self.labels == label)
        nested = NestedGrid(tuple(b.grid for b in self.boxes), tuple(b.parent for b in self.boxes))
        finest = zip(self.boxes, nested.uncovered, strict=True)
        labels = np.concatenate([box.labels[cells] for box, cells in finest])
        return share_of_box(labels == label, nested.volumes)

    def basin_of(self, x: ArrayLike) -> Cells:
        """Number of the attractor whose basin certainly contains each point.

        Args:
            x: Points, shape ``(n, d)``.

        Returns:
            Shape ``(n,)``: number of the attractor's Morse set, -1 where undecided, -2 where the
            point escapes or is outside the box.

        Raises:
            ValueError: If the shape does not match the box or a coordinate is NaN.
        """
        within = [box.grid.cell_of(x) for box in self.boxes]
        out = np.full(len(within[0]), ESCAPES, dtype=np.int64)
        for box, cells in zip(self.boxes, within, strict=True):
            out[cells >= 0] = box.labels[cells[cells >= 0]]
        return out

    def barrier(self, attractor: int) -> float:
        """Loss from an attractor up to the lowest saddle above it; NaN if there is none.

        The basin can be left there at the least cost inside the slice. Morse sets above the
        attractor that may hold a critical point of index 1 count as saddles. Losses are measured
        where :attr:`MorseSet.measured` says so. A set that is not resolved may hold a saddle
        anywhere, so what counts is the least loss in it, as far as the surrogate's mean tells: an
        estimate. It is 0 where a set above the attractor is not known to have a higher loss. Of a
        well it is at least so much, up to its wall, and 0 where the loss in it was not measured.

        Args:
            attractor: Number of an attractor's Morse set.

        Raises:
            ValueError: If that Morse set is not an attractor.
        """
        lowest, own = self.lowest_pass(attractor), self.morse_sets[attractor]
        if own.wall is not None:
            return max(0.0, own.wall - own.loss) if own.measured else 0.0
        if lowest is None:
            return math.nan
        return max(0.0, self._heights[lowest] - own.loss)

    def lowest_pass(self, attractor: int) -> int | None:
        """The Morse set that the barrier of an attractor is that of; None if there is none.

        Unless it is resolved it need not hold a saddle.

        Args:
            attractor: Number of an attractor's Morse set.

        Raises:
            ValueError: If that Morse set is not an attractor.
        """
        if attractor not in self.attractors:
            raise ValueError(
                f"attractor must be one of the attractors {self.attractors}, got {attractor!r}"
            )
        sets = self.morse_sets
        above = nx.ancestors(self.graph, attractor)
        passes = [i for i in above if (index := sets[i].index) is None or index <= 1]
        return min(passes, key=lambda i: (self._heights[i], i), default=None)

    @cached_property
    def _heights(self) -> tuple[float, ...]:
        """The loss of each Morse set as a pass, or the least mean in it if it is not resolved."""
        return tuple(
            m.loss if m.resolved else min((m.loss, *(box.least_mean(i) for box in self.boxes)))
            for i, m in enumerate(self.morse_sets)
        )

    def table(self, form: str = "markdown") -> str:
        """Return the Morse sets as a table, one row each.

        Losses that were not evaluated are given with the deviation of the surrogate. There is a
        column for ``mu`` if there are attractors.

        Args:
            form: ``"markdown"``, or ``"text"`` for columns that are aligned.

        Raises:
            ValueError: If there is no such form.
        """
        names = ["set", "what", "Morse index", "loss", "volume", "basin", "mu", "center"]
        if not self.attractors:
            names.remove("mu")
        rows = []
        volumes = self.basin_volumes
        for i, m in enumerate(self.morse_sets):
            what = kind_of_set(m.is_attractor, m.resolved, m.index, self.grid.dim)
            center = ", ".join(f"{c:.3g}" for c in m.center)
            basin = f"{volumes[i]:.1%}" if m.is_attractor else ""
            index = "?" if m.index is None else str(m.index)
            mu = "" if m.mu is None else short_of_one(m.mu)
            facts = [str(i), what, index, _with_deviation(m), f"{m.volume:.2%}", basin]
            facts += [mu] if self.attractors else []
            rows.append([*facts, f"({center})"])
        return written(form, names, rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the analysis to one file, in whole or not at all.

        The file is a NumPy archive without pickled objects; :meth:`load` reads it back.

        Args:
            path: Where to; an existing file is replaced.
        """
        from lightning_morse.result.file import write

        write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MorseAnalysis:
        """Read an analysis written by :meth:`save`.

        Only the members that are declared (``docs/formats.md``) are opened, and each is checked
        before room is made for it.

        Args:
            path: The file.

        Raises:
            DamagedFile: A ``ValueError``, if the file is not such an archive, is damaged, or has
                another format (files of format 1 have no ladder and are not read).
            FileNotFoundError: If there is no such file.
        """
        from lightning_morse.result.file import read

        return read(path)


def _with_deviation(m: MorseSet) -> str:
    doubt = f" ± {m.loss_deviation:.1g}" if m.loss_deviation else ""
    return f"{m.loss:.4g}{doubt}"

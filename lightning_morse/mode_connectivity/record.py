"""The record of barriers between sets of weights, and the questions it answers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.tables import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_morse.mode_connectivity.plane import Landscape, PlaneOfThree

CONNECTED, APART, UNDECIDED = "connected", "not connected", "undecided"


@dataclass(frozen=True, eq=False)
class Profile:
    """Losses along one line.

    Attributes:
        shares: Where the loss was evaluated, as a share of the way, shape ``(n,)``; the first two
            are the ends.
        losses: The losses there; not finite where it diverged.
        band: Mean, lower and upper side of the band at equal distances from end to end, shape
            ``(3, m)``; NaN if there is none.
        reason: Why there is no bound from above; empty if there is one.
    """

    shares: Array
    losses: Array
    band: Array
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Connectivity:
    r"""Barriers on the straight lines between ``k`` sets of weights, and which are connected.

    The barrier of a pair is the largest excess of the loss over the straight line between the
    losses at the ends, :math:`\max(0, \max_t\, l(t) - (1 - t)\, l(0) - t\, l(1))`. ``lower`` was
    evaluated, so it holds for sure. All entries of ``upper`` hold simultaneously with probability
    at least ``confidence`` (a union bound over the pairs), given that the losses on each line are a
    sample path of the process fitted there (:mod:`lightning_morse.barriers.band`).

    Permutations of hidden units are not searched: two networks that compute the same function with
    their units in different orders are, as a rule, not connected.

    Attributes:
        names: What the sets are called, ``k`` of them.
        losses: The loss at each, shape ``(k,)``.
        lower: Lower bounds, shape ``(k, k)``, symmetric, 0 on the diagonal.
        barriers: Estimates between the bounds, same shape.
        upper: Upper bounds, same shape; infinite where there is none.
        tolerance: A barrier of at most this counts as none, units of the loss.
        confidence: The level of the upper bounds.
        profiles: The losses along each line, in the order of :attr:`pairs`.
        n_evaluations: Evaluations of the loss in all.
        notes: What else there is to know of the sets.
        landscape: The loss, for :meth:`plane`; None for a record that was read from a file.
    """

    names: tuple[str, ...]
    losses: Array
    lower: Array
    barriers: Array
    upper: Array
    tolerance: float
    confidence: float
    profiles: tuple[Profile, ...]
    n_evaluations: int
    notes: tuple[str, ...] = ()
    landscape: Landscape | None = field(default=None, repr=False)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs ``(i, j)``, ``i < j``, in order."""
        return list(combinations(range(len(self.names)), 2))

    @cached_property
    def connected(self) -> Mask:
        """Which pairs certainly have no barrier above the tolerance, shape ``(k, k)``."""
        return np.asarray(self.upper <= self.tolerance)

    @cached_property
    def apart(self) -> Mask:
        """Which pairs certainly have a barrier above the tolerance, shape ``(k, k)``."""
        return np.asarray(self.lower > self.tolerance)

    @property
    def undecided(self) -> list[tuple[int, int]]:
        """The pairs that are neither."""
        return [p for p in self.pairs if not self.connected[p] and not self.apart[p]]

    def verdict(self, i: int, j: int) -> str:
        """``"connected"``, ``"not connected"`` or ``"undecided"``."""
        return CONNECTED if self.connected[i, j] else APART if self.apart[i, j] else UNDECIDED

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The sets in groups of which *every* pair is certainly connected.

        To be connected is not transitive, so groups are not unique: the first is a largest one, of
        several that with the least mean loss; the next is found among the rest in the same way. A
        set that is connected to none left is a group by itself.
        """
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.names)))
        graph.add_edges_from(p for p in self.pairs if self.connected[p])
        found = []
        while graph:
            best = min(map(sorted, nx.find_cliques(graph)), key=self._rank)
            found.append(tuple(best))
            graph.remove_nodes_from(best)
        return tuple(found)

    def _rank(self, group: Sequence[int]) -> tuple[int, float, list[int]]:
        return -len(group), float(self.losses[list(group)].mean()), list(group)

    def table(self, form: str = "markdown") -> str:
        """Return the pairs as a table, one row each.

        Args:
            form: ``"markdown"``, or ``"text"`` for columns that are aligned.

        Raises:
            ValueError: If there is no such form.
        """
        head = ["a", "b", "barrier", "at least", "at most", "verdict", "evaluations"]
        rows = []
        for (i, j), profile in zip(self.pairs, self.profiles, strict=True):
            verdict = self.verdict(i, j)
            if verdict == UNDECIDED and profile.reason:
                verdict += f": {profile.reason}"
            numbers = [f"{m[i, j]:.3g}" for m in (self.barriers, self.lower, self.upper)]
            facts = [self.names[i], self.names[j], *numbers, verdict, str(len(profile.shares))]
            rows.append(facts)
        return written(form, head, rows)

    def summary(self) -> str:
        """What was found, in a few lines: groups, tolerance and confidence, notes."""
        groups = [g for g in self.groups if len(g) > 1]
        lines = [f"connected: {', '.join(self.names[i] for i in group)}" for group in groups]
        lines = lines or ["no two sets are certainly connected"]
        lines.append(
            f"barriers up to {self.tolerance:.3g} count as none; all upper bounds together hold "
            f"at {self.confidence:g}; {self.n_evaluations} evaluations"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def figure(self) -> Figure:
        """Draw the barriers as a heat map, and the losses along the lines with their bands."""
        from lightning_morse.mode_connectivity.figure import plot_connectivity

        return plot_connectivity(self)

    def plane(
        self,
        i: int = 0,
        j: int = 1,
        k: int = 2,
        n_samples: int = 128,
        resolution: int = 64,
        seed: int = 0,
    ) -> PlaneOfThree:
        """Analyse the gradient flow on the plane through three sets of weights.

        It tells "in one basin of the flow" from "linearly connected": either can hold without the
        other. The box leaves room of half the longer extent of the triangle on each side.

        Args:
            i: Number of the first set.
            j: Number of the second.
            k: Number of the third.
            n_samples: Loss evaluations, as in :func:`lightning_morse.analyze`.
            resolution: Cells per axis.
            seed: Of the design.

        Returns:
            The analysis, and where in it the three lie.

        Raises:
            ValueError: If the record was read from a file, a number is out of range, or the three
                lie on a line.
        """
        if self.landscape is None:
            raise ValueError(
                "this record was read from a file, without the network: call connectivity() again "
                "for planes"
            )
        chosen = (i, j, k)
        if len(set(chosen)) < 3 or not all(0 <= n < len(self.names) for n in chosen):
            raise ValueError(
                f"i, j and k must be three different numbers below {len(self.names)}, got {chosen}"
            )
        return self.landscape.plane(chosen, self.confidence, n_samples, resolution, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to one file, in whole or not at all; :meth:`load` reads it back.

        Args:
            path: Where to; an existing file is replaced. A NumPy archive without pickled objects.
        """
        from lightning_morse.mode_connectivity.file import write

        write(path, self)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Connectivity:
        """Read a record written by :meth:`save`; the network is not part of it.

        Args:
            path: The file.

        Raises:
            DamagedFile: A ``ValueError``, if the file does not hold one.
            OSError: If it cannot be read.
        """
        from lightning_morse.mode_connectivity.file import read

        return read(path)


def symmetric(k: int, pairs: Sequence[tuple[int, int]], values: Sequence[float]) -> Array:
    """A symmetric matrix from values of pairs, 0 on the diagonal, shape ``(k, k)``."""
    matrix: NDArray[np.float64] = np.zeros((k, k))
    for (i, j), value in zip(pairs, values, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def pair_numbers(k: int) -> Cells:
    """The pairs of ``k`` sets in order, shape ``(k (k - 1) / 2, 2)``."""
    return np.array(list(combinations(range(k), 2)), dtype=np.int64).reshape(math.comb(k, 2), 2)

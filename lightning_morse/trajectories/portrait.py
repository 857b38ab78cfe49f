"""The dynamics on a grid according to a learnt map: its enclosure, Morse graph and basins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Mask
from lightning_morse.bands.value import ValueBand
from lightning_morse.conley.basins import exit_volumes, reach_of_cells
from lightning_morse.conley.combinatorial_map import cells_met, outer_approximation
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.conley.reach import Reach
from lightning_morse.conley.recurrence import drifts
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch
from lightning_morse.trajectories.local_fit import fit_local_map
from lightning_morse.trajectories.local_map import LocalMap
from lightning_morse.trajectories.pairs import Pairs
from lightning_morse.trajectories.settings import Settings

# Lattice points per axis, by dimension, below which the lattice is made finer than the grid. The
# band is sound on any lattice; on a coarse one it is wider between the points.
_FEWEST_POINTS = {1: 256, 2: 64, 3: 24}
# Keeps the random numbers apart from those of a design or a simulation with the same seed.
_STREAM = 2


@dataclass(frozen=True, eq=False)
class MapPortrait:
    """The dynamics on a grid according to the learnt map.

    Attributes:
        model: The learnt map.
        lattice: The points at which it was evaluated.
        bands: The simultaneous bands on its values, one per leaf.
        unknown: Cells where the pairs say too little, shape ``(grid.size,)``; they are exterior.
        image: The outer approximation.
        found: Its Morse graph, attractors first, without the components that drift.
        reach: The Morse sets each cell may reach, whether it may leave the box, and whether it may
            come to an unknown cell.
        exits: Fraction of the box that leaves through each face, shape ``(d, 2)``.
    """

    model: LocalMap
    lattice: Lattice
    bands: tuple[ValueBand, ...]
    unknown: Mask
    image: csr_array
    found: MorseGraph
    reach: Reach
    exits: Array

    @property
    def labels(self) -> NDArray[np.int32]:
        """The certain basins, shape ``(grid.size,)``."""
        return self.reach.labels(self.found.attractors)


def map_portrait(pairs: Pairs, settings: Settings, clock: Stopwatch) -> MapPortrait:
    """Fit the map, enclose it at the level asked for, and find its Morse graph and basins."""
    grid, single = settings.grid, settings.level_of_steps
    rng = np.random.default_rng([settings.seed, _STREAM])
    fewest = _FEWEST_POINTS[grid.dim]
    lattice = Lattice(grid, tuple(math.ceil(fewest / n) for n in grid.shape))
    with clock("fit"):
        model = fit_local_map(pairs, lattice, rng)
    with clock("posterior"):
        unknown = model.unknown_cells()
    with clock("band"):
        bands = model.bands(settings.confidence)
    with clock("enclosure"):
        low, up = model.image_boxes(bands, single)
        moves = model.displacement_boxes(bands, single)
        if np.isnan([*low, *up, *moves[0], *moves[1]]).any():
            raise SurrogateError("images of cells have left the range of floats: nothing is known")
    with clock("map"):
        image = outer_approximation(low, up, grid, exterior_cells=unknown)
    with clock("graph"):
        found = _without_drift(morse_graph(image), image, *moves)
    with clock("basins"):
        rest = [i for i in range(len(found.morse_sets)) if i not in found.attractors]
        order = [*found.attractors, *rest]
        reach = reach_of_cells(found, {old: new for new, old in enumerate(order)})
        found = found.renumbered(order)
        faces = np.stack([low < grid.lower, up > grid.upper], axis=2) & ~unknown[:, None, None]
        if unknown.any():
            next_to = _next_to_unknown(image, low, up, grid, unknown)
            may_come = found.condensation.reaching(np.flatnonzero(next_to))[:-1]
            reach = reach.coming_to_unknown(may_come)
        exits = exit_volumes(found, reach.labels(found.attractors), faces)
    return MapPortrait(model, lattice, bands, unknown, image, found, reach, exits)


def _next_to_unknown(
    image: csr_array, low: Array, up: Array, grid: CubicalGrid, unknown: Mask
) -> Mask:
    """Cells that are unknown, or whose image boxes meet a cell that is; shape ``(grid.size,)``.

    In the outer approximation both count as leaving, like an image that crosses a face.
    """
    exterior = image.shape[0] - 1
    rows = np.repeat(np.arange(exterior + 1), np.diff(image.indptr))
    met = np.zeros(exterior + 1, dtype=bool)
    met[rows[image.indices == exterior]] = True
    found: Mask = met[:-1]
    # An image that crosses a face has to be looked at; one that crosses none meets the unknown.
    crossing = np.flatnonzero(((low < grid.lower) | (up > grid.upper)).any(axis=1) & ~unknown)
    cells, counts = cells_met(low[crossing], up[crossing], grid)
    found[crossing] = False
    found[np.repeat(crossing, counts)[unknown[cells]]] = True
    return found


def _without_drift(found: MorseGraph, image: csr_array, low: Array, up: Array) -> MorseGraph:
    """The Morse graph without the components that certainly hold nothing recurrent."""
    kept = np.zeros(len(low), dtype=bool)
    for cells in found.morse_sets:
        kept[cells] = not drifts(low[cells], up[cells])
    return morse_graph(image, critical=kept)

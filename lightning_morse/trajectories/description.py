"""What is recorded of a learnt map: its Morse sets, and facts about the map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lightning_morse._typing import Array, Cells
from lightning_morse.conley.index import conley_indices
from lightning_morse.facts import MapFacts
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseSet
from lightning_morse.trajectories.local_map import LocalMap
from lightning_morse.trajectories.pairs import Pairs
from lightning_morse.trajectories.portrait import MapPortrait
from lightning_morse.trajectories.settings import Settings

# Most cells of a Morse set tried as its centre. A centre is an estimate, nothing depends on it.
_CELLS_TRIED_AS_CENTER = 2000


def described(portrait: MapPortrait, periods: Sequence[int], mu: Array) -> tuple[MorseSet, ...]:
    """One record per Morse set; attractors, which have a ``mu``, come first."""
    grid, bounds = portrait.lattice.grid, dict(enumerate(mu.tolist()))
    return tuple(
        MorseSet(
            cells=cells,
            is_attractor=number in bounds,
            resolved=False,
            index=None,
            center=_center(cells, rounds, portrait.model, grid),
            loss=math.nan,
            volume=cells.size / grid.size,
            mu=bounds.get(number),
        )
        for number, (cells, rounds) in enumerate(
            zip(portrait.found.morse_sets, periods, strict=True)
        )
    )


def _center(cells: Cells, rounds: int, model: LocalMap, grid: CubicalGrid) -> Array:
    """Centre of the cell that returns closest to itself after as many steps as the period."""
    some = cells[:: math.ceil(cells.size / _CELLS_TRIED_AS_CENTER)]
    low, up = grid.cell_bounds()
    middle = 0.5 * (low[some] + up[some])
    later = middle
    for _ in range(rounds):
        later = model.mean(later)
    apart = np.linalg.norm((later - middle) / grid.cell_widths, axis=1)
    nearest: Array = middle[int(np.argmin(apart))]
    return nearest


def facts_of(
    portrait: MapPortrait,
    settings: Settings,
    pairs: Pairs,
    n_pairs: int,
    periods: Sequence[int],
) -> MapFacts:
    """Facts about the map and the pairs it was fitted to, out of ``n_pairs`` in all."""
    model = portrait.model
    indices = conley_indices(portrait.image, portrait.found, portrait.lattice.grid)
    each = [m.processes for m in model.standing]
    void = np.isin(model.leaf_of_cell, np.flatnonzero(model.void))
    return MapFacts(
        kernel=each[0][0].kernel.name,
        n=len(pairs),
        n_outside=n_pairs - len(pairs),
        n_runs=len(pairs.run_ids),
        cut_runs=tuple(pairs.cut),
        lag=pairs.lag,
        lengthscales=tuple(
            map(tuple, np.median([[p.lengthscales for p in ps] for ps in each], axis=0).tolist())
        ),
        mean=_typical([np.array([p.mean for p in ps]) for ps in each]),
        deviation=_typical([m.prior_deviation for m in model.standing]),
        noise_deviation=_typical([m.noise_deviation for m in model.standing]),
        noise=settings.noise,
        step_level=settings.level_of_steps,
        factors=tuple(model.factors.tolist()),
        band_deviations=portrait.bands[0].c,
        band_between=_largest([b.between for b in portrait.bands if b.between.size]),
        periods=tuple(periods),
        betti=tuple(None if found is None else found.betti for found in indices),
        unknown=float(portrait.unknown.mean()),
        leaves=len(model.leaves),
        void=float(void.mean()),
    )


def _typical(each: Sequence[Array]) -> tuple[float, ...]:
    """Median over the leaves, per coordinate."""
    return tuple(np.median(each, axis=0).tolist())


def _largest(each: Sequence[Array]) -> tuple[float, ...]:
    """Maximum over the leaves, per coordinate."""
    return tuple(np.max(each, axis=0).tolist())

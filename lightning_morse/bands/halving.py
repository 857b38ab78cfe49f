"""The lattice halved for the union bound: how often, and the deviations between its points.

Where a lattice is coarse, most of a band may be what has to be allowed between its points. A chain
that starts at the points of the lattice halved ``h`` times has more of them in its union bound and
allows less between them. The posterior is not evaluated at the new points. Its deviations there are
bounded by those at the corners of the cells, plus twice the error of interpolating them, which is
estimated from second differences. The bound is compared with the deviations at random places, and
enlarged if one of them is larger. It is not a proof.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.bands import union_bound
from lightning_morse.grids.lattice import Lattice

# The estimated error of interpolating deviations is taken this many times, for what second
# differences at the corners miss, and checked at this many random places.
_CAUTION_INSIDE = 2
_N_CHECKS = 1024


def n_tests(n_fields: int, n_points: int, dim: int, halvings: int) -> float:
    """Factor of the tail probability in the union bound over the points of a halved lattice.

    Args:
        n_fields: Number of fields.
        n_points: Number of points before the lattice is halved.
        dim: Number of axes.
        halvings: How often it is halved.
    """
    return union_bound.n_tests(n_fields, n_points * 2.0 ** (dim * halvings))


def narrowest(band: Callable[[int], tuple[float, Array]], typical: Array, most: int) -> int:
    """How often to halve the lattice for the band that is narrowest on average.

    Args:
        band: Number of deviations, and allowance between the points, of the lattice halved a number
            of times.
        typical: Deviation that is typical, of each field.
        most: Most halvings.
    """
    bands = map(band, range(most + 1))
    return int(np.argmin([np.sum((c * typical + between) / typical) for c, between in bands]))


def deviation_inside(lattice: Lattice, at_points: Array) -> Array:
    """Estimate of the largest deviation in each cell.

    Args:
        lattice: The lattice.
        at_points: The deviations at its points, shape ``(n_points, ...)``.

    Returns:
        Shape ``(n_cells, ...)``.
    """
    growth = _CAUTION_INSIDE * lattice.interpolation_error(at_points)
    return np.asarray(lattice.largest_corner(at_points) + growth)


def checked(lattice: Lattice, bound: Array, deviation: Callable[[Array], Array]) -> Array:
    """A bound on the deviation in each cell, enlarged if it does not hold at random places.

    Args:
        lattice: The lattice.
        bound: Shape ``(n_cells, ...)``.
        deviation: The deviation at given places.
    """
    rng = np.random.default_rng(0)
    cells = rng.integers(0, len(bound), _N_CHECKS)
    corner = np.stack(np.unravel_index(cells, lattice.cells), axis=1)
    places = lattice.grid.lower + (corner + rng.random(corner.shape)) * lattice.spacing
    return np.asarray(bound * max(1.0, float((deviation(places) / bound[cells]).max())))

"""The union bound: its counts, its quantiles, and the chain between the points."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from lightning_morse.bands import union_bound
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice


def corners_of(lattice, cells):
    """Index of every corner of some lattice cells, each once."""
    index = np.stack(np.unravel_index(cells, lattice.cells), axis=1)
    offsets = np.array(list(np.ndindex(*(2,) * lattice.dim)))
    return np.unique((index[:, None] + offsets).reshape(-1, lattice.dim), axis=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_new_points_of_some_cells_are_as_few_as_supposed(dim):
    """Halving cells k times: at most 2^(d k) points for each corner, however the cells lie."""
    rng = np.random.default_rng(dim)
    lattice = Lattice(CubicalGrid([0.0] * dim, [1.0] * dim, (4,) * dim), (1,) * dim)
    for share in (0.05, 0.3, 1.0):
        cells = np.flatnonzero(rng.random(lattice.grid.size) < share)
        if not cells.size:
            continue
        corners = corners_of(lattice, cells)
        for k in (1, 2):
            fine = Lattice(lattice.grid, (2**k,) * dim)
            inside = np.isin(fine.grid_cell_of(np.arange(np.prod(fine.cells))), cells)
            points = corners_of(fine, np.flatnonzero(inside))
            assert len(corners) < len(points) <= 2 ** (dim * k) * len(corners)


@pytest.mark.parametrize("failure", [0.5, 0.05, 1e-6, 1e-12])
def test_a_quantile_reaches_its_level_and_hardly_more(failure):
    tests = union_bound.n_tests(2, 1000)
    assert tests == pytest.approx(2 * 2 * 1000 * 1.05)
    c = union_bound.quantile(math.log(failure / tests))
    assert failure * (1 - 1e-9) <= union_bound.failure_bound(c, tests) <= failure
    assert union_bound.level(c, tests) == 1 - union_bound.failure_bound(c, tests)
    assert union_bound.level(0.0, tests) == 0.0


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_chain_spends_what_is_set_aside_for_it(dim):
    """A Gaussian at each new point of every level: the tails add up to the share between."""
    c, levels = 4.0, 30
    log_share = union_bound.log_share_between(c)
    assert math.exp(log_share) == pytest.approx(union_bound.BETWEEN * norm.sf(c))
    quantiles = union_bound.chained(log_share, dim, np.eye(levels))
    new_points = 2.0 ** (dim * np.arange(1, levels + 1))
    spent = float(new_points @ norm.sf(quantiles))
    assert 0.999 * math.exp(log_share) < spent <= math.exp(log_share)

"""Random image boxes, and random combinatorial maps given by their matrices."""

import numpy as np
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid


@st.composite
def image_boxes_on_grids(draw):
    """A small grid with image boxes whose corners are often exactly on cell edges."""
    d = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 5 if d < 3 else 3)) for _ in range(d))
    grid = CubicalGrid([0.1] * d, [0.1 + 0.7 * n for n in shape], shape)
    edges = [np.append(e, [e[0] - 1, e[-1] + 1]) for e in grid.edges]
    size = grid.size
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    on_edge = np.stack([rng.choice(e, (2, size)) for e in edges], axis=-1)
    free = rng.uniform(grid.lower - 0.5, grid.upper + 0.5, (2, size, d))
    corners = np.where(rng.random((2, size, d)) < draw(st.sampled_from([0, 0.5, 1])), on_edge, free)
    if draw(st.booleans()):  # small images, so that there is more than one component
        corners[1] = corners[0] + rng.choice([0.0, 0.3, 0.7], (size, d))
    return grid, corners.min(0), corners.max(0)


@st.composite
def adjacency_matrices(draw, largest=9):
    n = draw(st.integers(2, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = rng.random((n, n)) < draw(st.sampled_from([0.1, 0.2, 0.4]))
    if draw(st.booleans()):  # no cycles except fixed cells: many Morse sets, few of them trivial
        matrix = np.tril(matrix, -1) | np.diag(rng.random(n) < 0.6)
    idle = ~matrix.any(axis=1)
    matrix[idle, -1] = True
    matrix[-1] = False
    matrix[-1, -1] = True
    return matrix


def image_of(edges, n):
    matrix = np.zeros((n + 1, n + 1), dtype=bool)
    matrix[tuple(np.array(edges).T)] = True
    matrix[-1, -1] = True
    return csr_array(matrix)

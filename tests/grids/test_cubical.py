import numpy as np
import pytest

from lightning_morse import CubicalGrid


def test_cells_are_numbered_with_the_last_axis_fastest():
    grid = CubicalGrid([0, 0], [2, 3], (2, 3))
    lower, upper = grid.cell_bounds()
    assert lower.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert np.array_equal(upper, lower + 1)
    assert np.array_equal(grid.cell_of(grid.cell_centers()), np.arange(6))


def test_cell_of_faces_and_outside():
    grid = CubicalGrid([0.0], [1.0], (4,))
    points = [[0.0], [0.25], [0.999], [1.0], [1.0 + 1e-12], [-1e-12], [np.inf]]
    assert grid.cell_of(points).tolist() == [0, 1, 3, 3, -1, -1, -1]


def test_every_point_is_in_the_cell_it_is_given():
    grid = CubicalGrid([-0.1, 3.0, 1e6], [0.7, 3.0001, 1e6 + 1], (7, 13, 5))
    points = np.random.default_rng(0).uniform(grid.lower, grid.upper, (500, 3))
    lower, upper = grid.cell_bounds()
    cells = grid.cell_of(points)
    assert ((lower[cells] <= points) & (points <= upper[cells])).all()


@pytest.mark.parametrize(
    ("lower", "upper", "shape", "message"),
    [
        ([0.0], [np.inf], (4,), "upper must be finite"),
        ([np.nan], [1.0], (4,), "lower must be finite"),
        ([0.0, 1.0], [1.0, 1.0], (4, 4), "on axis 1 lower is 1.0"),
        ([0.0], [1.0, 2.0], (4,), "same length, got 1 and 2"),
        (0.0, 1.0, (4,), "lower must be a sequence"),
        ([-1e308], [1e308], (4,), "upper - lower must be finite"),
        ([0.0], [1.0], (4, 4), "one positive integer for each of the 1 axes"),
        ([0.0], [1.0], (0,), "one positive integer"),
        ([0.0], [1.0], (2.5,), "one positive integer"),
        ([0.0] * 4, [1.0] * 4, (256,) * 4, "4.29e.09 cells"),
    ],
)
def test_bad_boxes_are_refused(lower, upper, shape, message):
    with pytest.raises(ValueError, match=message):
        CubicalGrid(lower, upper, shape)


@pytest.mark.parametrize(
    ("points", "message"),
    [([0.5], r"shape \(n, 2\)"), ([[0.1, np.nan]], "row 0"), ([[1.0]], r"shape \(n, 2\)")],
)
def test_bad_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        CubicalGrid([0, 0], [1, 1], (2, 2)).cell_of(points)


def test_periodic_axes():
    grid = CubicalGrid([0, -1], [1, 1], (4, 4), (True, False))
    assert grid.periodic == (True, False)
    assert CubicalGrid([0], [1], (4,)).periodic == (False,)
    points = [[1.3, 0.1], [-0.1, 0.1], [0.3, 1.5], [np.inf, 0.1], [7.0, -1.0]]
    assert grid.cell_of(points).tolist() == [6, 14, -1, -1, 0]
    for wrong in ((True,), (1, 0), "no"):
        with pytest.raises(ValueError, match="periodic must give one boolean for each of the 2"):
            CubicalGrid([0, -1], [1, 1], (4, 4), wrong)


def test_too_many_cells_are_refused_with_their_memory():
    with pytest.raises(ValueError, match=r"2.15e.09 cells; .* would take 8 GiB"):
        CubicalGrid([0, 0], [1, 1], (2**16, 2**15))

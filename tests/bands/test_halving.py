"""How often a lattice is halved, and the deviations between its points."""

import numpy as np
import pytest

from lightning_morse.bands.halving import checked, deviation_inside, n_tests, narrowest
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice

LATTICE = Lattice(CubicalGrid([0.0, 0.0], [1.0, 2.0], (8, 8)), (1, 2))


def test_every_point_of_the_halved_lattice_is_a_test():
    assert n_tests(3, 10, 2, 0) == pytest.approx(63)
    assert n_tests(3, 10, 2, 2) == 16 * n_tests(3, 10, 2, 0)


def test_the_narrowest_band_is_chosen():
    widths = {0: (2.0, 8.0), 1: (3.0, 2.0), 2: (4.0, 0.5), 3: (5.0, 0.1)}
    for typical, best in ((0.1, 3), (1.0, 2), (10.0, 0)):
        assert narrowest(lambda h: widths[h], np.array(typical), most=3) == best
    assert narrowest(lambda h: widths[h], np.array([0.1]), most=1) == 1


def test_a_bound_that_holds_is_kept_and_one_that_fails_enlarged():
    def deviation(places):
        return 1 + places[:, 0] * (1 - places[:, 0])

    at_points = deviation(np.stack(np.meshgrid(*LATTICE.axes, indexing="ij"), -1).reshape(-1, 2))
    bound = deviation_inside(LATTICE, at_points)
    np.testing.assert_array_equal(checked(LATTICE, bound, deviation), bound)
    enlarged = checked(LATTICE, bound, lambda places: 1.5 * deviation(places))
    assert (enlarged > 1.4 * bound).all()
    assert enlarged / bound == pytest.approx(enlarged[0] / bound[0])

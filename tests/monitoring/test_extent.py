"""The size of the box, given or from the trajectory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_morse.monitoring.extent import given_extent, half_widths, reach_along


def test_half_widths():
    assert half_widths([[1.0, -2.0], [0.5, 1.0]]).tolist() == [1.5, 3.0]
    assert half_widths([[1.0, -2.0], [0.5, 1.0]], margin=3).tolist() == [3.0, 6.0]
    assert half_widths([[0.1, -2.0]]).tolist() == [0.75, 3.0]
    assert half_widths([[0.0, 0.0]], [4.0, 5.0]).tolist() == [4.0, 5.0]
    assert half_widths([[2.0, 0.0]], [4.0, 5.0]).tolist() == [3.0, 0.75]
    assert half_widths([[2.0, 0.0]], [1.0, 5.0], at_least=True).tolist() == [3.0, 5.0]
    with pytest.raises(ValueError, match="set extent"):
        half_widths([[0.0, 0.0]])


def test_extents_that_users_give():
    auto = given_extent("auto", 2)
    assert (auto.half, auto.grows) == (None, True)
    share = given_extent(" 62.5 % ", 2)
    assert (share.half, share.margin, share.grows) == (None, 0.625, False)
    given = given_extent([1, 2], 2)
    assert given.half is not None
    assert (given.half.tolist(), given.grows) == ([1.0, 2.0], False)


@pytest.mark.parametrize("wrong", ["all", "0%", "-5%", "1e3%", "%", 0, -1, math.inf, [1, 2, 3]])
def test_other_extents_are_refused(wrong):
    with pytest.raises(ValueError, match="extent must be 'auto', a share of the trajectory such"):
        given_extent(wrong, 2)


def test_reach_along_other_axes_is_that_of_the_trajectory():
    way = np.array([[4.0, 1.0], [8.0, 2.0]])
    along = np.array([[4.0, -1.0], [1.0, 4.0]]) / np.sqrt(17)
    # All of it along the first axis; a quarter of that is the least along the second.
    np.testing.assert_allclose(
        reach_along(way, along, margin=16.0), 16 * np.sqrt(68) * np.array([1, 0.25])
    )
    np.testing.assert_allclose(reach_along(way, np.eye(2), margin=1.0), [8.0, 2.0])
    assert reach_along(np.zeros((3, 2)), along, margin=16.0).tolist() == [0.0, 0.0]

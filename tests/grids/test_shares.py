"""Shares of a box: nothing and all of it are exact, whatever rounding does to volumes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse.conley.basins import escaping_volumes
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.grids.shares import share_of_box


@st.composite
def towers(draw):
    """Boxes inside boxes, of any place and size."""
    dim = draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lower = rng.normal(size=dim)
    nested = NestedGrid.of(CubicalGrid(lower, lower + rng.uniform(0.1, 9, dim), (20,) * dim))
    for k in range(draw(st.integers(0, 3))):
        inside = nested.grids[k]
        width = inside.upper - inside.lower
        nested = nested.around(inside.lower + 0.2 * width, inside.upper - 0.3 * width, k, 21)
    return nested, rng


@settings(max_examples=60, deadline=None)
@given(towers(), st.floats(0, 1))
def test_shares_are_exact_for_none_and_all_and_between_elsewhere(case, chance):
    nested, rng = case
    found = rng.random(nested.size) < chance
    shares = [share_of_box(mask, nested.volumes) for mask in (found, ~found)]
    assert sum(shares) == pytest.approx(1)
    for mask, share in zip((found, ~found), shares, strict=True):
        assert 0 <= share <= 1
        assert (share == 1) == bool(mask.all())
        assert (share == 0) == (not mask.any())


@settings(max_examples=60, deadline=None)
@given(towers())
def test_where_everything_escapes_through_a_face_its_share_is_one(case):
    nested, _ = case
    through = np.zeros((nested.size, nested.dim, 2), dtype=bool)
    through[:, 0, 1] = True
    labels = np.full(nested.size, ESCAPES, dtype=np.int32)
    shares = escaping_volumes(through, labels, volumes=nested.volumes)
    assert shares[0].tolist() == [0, 1]
    assert not shares[1:].any()


def test_equal_volumes_need_not_be_given():
    assert share_of_box(np.array([True, False, False, True])) == 0.5

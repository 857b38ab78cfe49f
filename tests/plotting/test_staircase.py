"""The staircase figure of a linear network."""

import numpy as np
import pytest

from lightning_morse.plotting.staircase import plot_staircase


def test_overlapping_level_numbers_are_left_out():
    levels = [1.0, 0.5, 0.499, 0.0]
    figure = plot_staircase([0, 1, 2], [1.0, 0.7, 0.1], np.zeros((3, 4)), levels)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["0 learned", "1 learned", "3 learned"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_staircase([0], [0.0, 1.0], [[0.0]], []), r"must have shape \(k,\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()

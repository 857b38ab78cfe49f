"""Layers of a linear network, its loss and its gradient."""

import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.network import as_weights

MOMENTS = dl.Moments(np.eye(2), np.eye(2), 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_weights([]), "at least one layer, got none"),
        (lambda: as_weights([np.ones(3)]), r"got shape \(3,\) for layer 1. Leave biases out"),
        (lambda: as_weights([np.ones((2, 0))]), "must be matrices"),
        (lambda: as_weights([[[np.nan]]]), "NaN or infinity in layer 1"),
        (lambda: as_weights([np.ones((3, 2)), np.ones((2, 4))]), "3 outputs below layer 2 with 4"),
        (lambda: dl.loss([np.ones((2, 3))], MOMENTS), "with 3 inputs and 2 outputs .* got 2 and 2"),
        (lambda: dl.residual([np.ones((2, 3))], MOMENTS), "like the network"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()

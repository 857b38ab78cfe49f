"""Targets of a batch."""

import pytest
import torch

from lightning_morse.deep_linear.squared_error import targets


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets(torch.ones(2), 2), "got no targets"),
        (lambda: targets((0, torch.tensor([0, 2])), 2), "below the 2 outputs, got 2"),
        (lambda: targets((0, torch.ones(3, 4)), 2), "must have the width 2"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()

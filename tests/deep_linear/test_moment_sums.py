"""Moments accumulated over batches."""

import numpy as np
import pytest
import torch

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.moment_sums import MomentSums


def test_sums_do_not_depend_on_the_batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(30, 2, generator=generator, dtype=torch.float64) + 3
    whole, cut = MomentSums(), MomentSums()
    whole.add(x, y)
    for a, b in zip(x.split(7), y.split(7), strict=True):
        cut.add(a, b)
    resumed = MomentSums()
    resumed.load_state_dict(cut.state_dict())
    for centred in (False, True):
        shift = (x.mean(0), y.mean(0)) if centred else (0.0, 0.0)
        expected = dl.Moments.of((x - shift[0]).numpy(), (y - shift[1]).numpy())
        for sums in (whole, cut, resumed):
            found = sums.moments(centred)
            assert np.abs(found.xx - expected.xx).max() < 1e-13
            assert np.abs(found.yx - expected.yx).max() < 1e-13
            assert found.yy == pytest.approx(expected.yy)


def test_batches_of_different_widths_are_refused():
    sums = MomentSums()
    sums.add(torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match="3 inputs and 1 targets, got 2 and 1"):
        sums.add(torch.ones(2, 2), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MomentSums().moments(), "got none. Call add"),
        (lambda: MomentSums().add(torch.ones(2, 1), torch.ones(3, 1)), "with the same m"),
        (lambda: MomentSums().add(torch.tensor([[np.nan]]), torch.ones(1, 1)), "must be finite"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()

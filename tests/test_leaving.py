"""The benchmark that looks for attractors where training is said to leave."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace
from tests.benchmark_files import load


@pytest.fixture(scope="module")
def leaving():
    return load("leaving")


def test_the_cross_entropy_is_that_of_torch_and_exact_where_that_is_zero(leaving):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    classes = torch.arange(20) % 3
    expected = F.cross_entropy(logits, classes)
    torch.testing.assert_close(leaving.exact_cross_entropy(logits, classes), expected)
    sure = torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float64)
    found = leaving.exact_cross_entropy(sure, torch.tensor([0])).item()
    assert F.cross_entropy(sure, torch.tensor([0])).item() == 0
    assert found == pytest.approx(2 * np.exp(-100.0), rel=1e-12)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.slow
@pytest.mark.parametrize("separable", [True, False])
def test_the_look_finds_an_attractor_if_and_only_if_there_is_one(leaving, monkeypatch, separable):
    # One feature, two classes: with one example on the wrong side the minimum is finite.
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0], [-3.0 if not separable else 3.0]])
    y = torch.tensor([0, 0, 1, 1, 1])
    module = Classifier()
    with torch.no_grad():
        module.net.weight.copy_(torch.tensor([[0.0], [0.1]]))
        module.net.bias.zero_()
    plane = AffineSubspace(flat_parameters(module), torch.eye(4)[:, [1, 3]])
    loss = LossSlice(module, plane, [[x, y]], lambda m, b: m.training_step(b, 0))
    look = SimpleNamespace(current=torch.zeros(2, dtype=torch.float64))
    monkeypatch.setattr(leaving, "reach_of", lambda look: np.array([0.5, 0.5]))
    found = leaving.attractor(SimpleNamespace(loss=loss, look=look))
    assert (found is None) == separable
    if found is not None:
        place, share = found
        at = torch.from_numpy(place * 0.5)[None]
        exact = leaving.in_double(loss)
        around = at + 1e-3 * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
        assert (exact(around) >= exact(at)).all()
        assert 0 < share < 1

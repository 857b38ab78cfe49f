"""Measures of the weights of any network."""

import numpy as np
import pytest

from lightning_morse.deep_linear.measures import node_strengths, pq_index


def test_node_strengths_are_sums_of_links():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=4)
    sums = [sum(kernel[i].ravel()) + bias[i] for i in range(4)]
    assert node_strengths(kernel, bias) == pytest.approx((np.mean(sums), np.std(sums)))


@pytest.mark.parametrize(("p", "q"), [(0.5, 1.0), (1.0, 2.0)])
def test_pq_index_is_its_formula(p, q):
    w = np.random.default_rng(0).normal(size=50)
    norms = [np.sum(np.abs(w) ** e) ** (1 / e) for e in (p, q)]
    assert pq_index(w, p, q) == pytest.approx(1 - 50 ** (1 / q - 1 / p) * norms[0] / norms[1])
    assert pq_index(1e200 * w, p, q) == pytest.approx(pq_index(w, p, q))
    assert pq_index(np.eye(1, 50), p, q) == pytest.approx(1 - 50 ** (1 / q - 1 / p))
    assert pq_index(np.zeros(3), p, q) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: node_strengths([1.0]), "at least two axes"),
        (lambda: node_strengths(np.eye(2), [1.0]), r"bias must have shape \(2,\)"),
        (lambda: pq_index([]), "at least one number"),
        (lambda: pq_index([1.0], 2.0, 1.0), "0 < p < q"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()

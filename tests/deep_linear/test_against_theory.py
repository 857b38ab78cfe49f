"""Analyses of slices of linear networks, compared with the theory."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse import deep_linear as dl
from lightning_morse.conley.reach import UNDECIDED

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "deep_linear.py"))
TWO = dl.Moments.of(*(t.numpy() for t in EXAMPLE["mode_data"]([3.0, 1.0])))
ROOT = 2**0.5


def analysed(name, seed):
    make, half = EXAMPLE["SLICES"][name]
    return lm.analyze(make(), -np.array(half), half, seed=seed)


def found_at(result, index, expected, within):
    """Whether the Morse sets of an index are centred at the expected points, one at each."""
    centers = np.array([m.center for m in result.morse_sets if m.index == index])
    distances = np.abs(centers[:, None] - np.array(expected)).max(axis=2)
    nearest = distances.argmin(axis=1)
    return sorted(nearest) == list(range(len(expected))) and distances.min(axis=1).max() < within


def weights_at(loss, x):
    """The layers of the network at a point of its slice."""
    flat = loss.subspace.point(torch.tensor(x, dtype=torch.float64)).numpy()
    shapes = [p.shape for p in loss._loss.module.parameters()]
    ends = np.cumsum([s.numel() for s in shapes])[:-1]
    return [w.reshape(s) for w, s in zip(np.split(flat, ends), shapes, strict=True)]


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("two_modes", lambda a, b: (3 - a**2) ** 2 / 2 + (1 - b**2) ** 2 / 2),
        ("swap", lambda a, b: ((a**2 - 3) ** 2 + (b**2 - 1) ** 2 + 2 * a**2 * b**2) / 2),
    ],
)
def test_slices_of_networks_equal_their_formula(name, formula):
    loss = EXAMPLE[name]()
    a = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (20, 2)))
    assert torch.allclose(loss(a * ROOT), formula(*a.T), rtol=0, atol=1e-12)
    for x in (a * ROOT).numpy()[:5]:
        expected = dl.loss(weights_at(loss, x), TWO)
        assert float(loss(torch.tensor(x[None]))[0]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_modes(seed):
    result = analysed("two_modes", seed)
    assert (result.n_attractors, result.n_unresolved, result.n_morse_sets) == (4, 0, 9)
    assert result.graph.number_of_edges() == 12
    a, b = np.sqrt(3) * ROOT, ROOT
    assert found_at(result, 0, [[-a, -b], [-a, b], [a, -b], [a, b]], 0.01)
    assert found_at(result, 1, [[-a, 0], [0, -b], [0, b], [a, 0]], 0.01)
    assert found_at(result, 2, [[0, 0]], 0.01)
    # The levels of the two modes, from nothing learned to both.
    levels = [level.loss for level in dl.critical_levels(TWO, (2, 2, 2))]
    found = sorted({round(m.loss, 1) + 0.0 for m in result.morse_sets}, reverse=True)
    assert found == pytest.approx(levels, abs=1e-9)
    # The basins are the open quadrants; no certain label is wrong and most cells are certain.
    points = np.random.default_rng(0).uniform(-2, 2, (4000, 2))
    labels = result.basin_of(points)
    for sign in ([1, 1], [1, -1], [-1, 1], [-1, -1]):
        inside = (np.sign(points) == sign).all(axis=1)
        own = int(result.basin_of(np.array([[a, b]]) * sign)[0])
        assert own >= 0
        assert set(labels[inside]) <= {own, UNDECIDED}
        assert (labels[inside] == own).mean() > 0.9


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_swap(seed):
    result = analysed("swap", seed)
    assert (result.n_attractors, result.n_unresolved, result.n_morse_sets) == (2, 0, 5)
    assert result.graph.number_of_edges() == 6
    a, b = np.sqrt(3) * ROOT, ROOT
    assert found_at(result, 0, [[-a, 0], [a, 0]], 0.01)
    assert found_at(result, 1, [[0, -b], [0, b]], 0.01)
    assert found_at(result, 2, [[0, 0]], 0.01)
    loss = EXAMPLE["swap"]()
    kinds = [dl.classify(weights_at(loss, x), TWO).kind for x in ([a, 0], [0, b], [0, 0])]
    assert kinds == ["global minimum", "strict saddle", "strict saddle"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_chain_with_decay(seed):
    result = analysed("chain", seed)
    known = dl.chain_critical_points(2, 1.0, 0.2)
    assert (result.n_attractors, result.n_unresolved, result.n_morse_sets) == (2, 0, 3)
    for index in (0, 1):
        assert found_at(result, index, [p.weights for p in known if p.index == index], 0.01)
    for m in result.morse_sets:
        assert min(abs(m.loss - p.loss) for p in known) < 1e-3


def test_chain_without_decay_has_no_certain_minimum():
    """Two arcs of minima, w_2 w_1 = 1, leave every box, so no attractor can be isolated."""
    result = analysed("chain_without_decay", 0)
    minimal = [n for n in result.graph if result.graph.out_degree(n) == 0]
    assert len(minimal) == 2
    w = np.geomspace(0.51, 1.96, 200)
    for sign in (1, -1):
        arc = sign * np.column_stack([w, 1 / w])
        cells = result.grid.cell_of(arc)
        holding = [n for n in minimal if set(cells) <= set(result.morse_sets[n].cells.tolist())]
        assert len(holding) == 1  # the whole arc in one Morse set
    assert result.n_attractors == 0
    assert result.n_unresolved == 2
    assert "exactly" not in result.claim
    assert (result.basin_of(np.array([[1.0, 1.0], [-1.0, -1.0]])) == UNDECIDED).all()


def cube(decay, n_samples, resolution, half=1.3):
    """The critical points of a chain of three, and its analysis."""
    known = dl.chain_critical_points(3, 1.0, decay)
    loss = EXAMPLE["chain"](3, decay)
    return known, lm.analyze(loss, [-half] * 3, [half] * 3, n_samples, resolution)


def is_sound(known, result):
    """Every critical point lies in a Morse set, and no claim exceeds the truth."""
    cells = result.grid.cell_of(np.array([p.weights for p in known]))
    held = [[m for m in result.morse_sets if c in set(m.cells.tolist())] for c in cells]
    certain = [m for sets in held for m in sets if m.is_attractor and m.resolved]
    return (
        all(len(sets) == 1 for sets in held)
        and len({id(m) for m in certain}) == len(certain)
        and result.n_attractors <= sum(p.index == 0 for p in known)
        and not (result.n_unresolved == 0 and result.n_attractors < 5)
    )


@pytest.mark.parametrize("decay", [0.2, 0.35])
def test_chain_in_three_dimensions_is_sound(decay):
    assert is_sound(*cube(decay, 32, 8))


@pytest.mark.slow
def test_chain_in_three_dimensions():
    """Five minima and four saddles, the latter 0.02 above the minimum at the origin.

    With less decay they are closer and take minutes: ``benchmarks/chain_of_three.py``.
    """
    known, result = cube(0.35, 600, 64)
    assert is_sound(known, result)
    assert result.claim == "exactly 5 attractors"
    assert (result.n_attractors, result.n_unresolved, result.n_morse_sets) == (5, 0, 9)
    for index in (0, 1):
        assert found_at(result, index, [p.weights for p in known if p.index == index], 0.02)
    # Each saddle lies between the origin and one of the other minima.
    origin = int(np.argmin([np.abs(m.center).max() for m in result.morse_sets]))
    for saddle in (i for i, m in enumerate(result.morse_sets) if m.index == 1):
        below = set(result.graph.successors(saddle))
        (other,) = below - {origin}
        assert below == {origin, other}
        assert (result.morse_sets[saddle].center * result.morse_sets[other].center > 0).all()

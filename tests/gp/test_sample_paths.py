import numpy as np
import pytest

from lightning_morse import CubicalGrid
from lightning_morse.bands.gradient import gradient_band, simulated_band
from lightning_morse.gp import sample_paths as simulation
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.gp.sample_paths import largest_errors
from lightning_morse.grids.lattice import Lattice


def process(kernel, dim, n=20):
    rng = np.random.default_rng(3)
    return GaussianProcess(
        x=rng.uniform(-1, 1, (n, dim)),
        y=np.zeros(n),
        lengthscales=np.array([0.8, 1.4, 1.1])[:dim],
        variance=2.0,
        noise=1e-6,
        mean=0.0,
        kernel=kernel,
    )


def lattice_of(dim, n):
    return Lattice(CubicalGrid([-1] * dim, [1] * dim, (n,) * dim), (1,) * dim)


def exact_largest_errors(gp, lattice, n_paths, rng):
    """The same from the joint posterior covariance of all gradient entries, in one piece."""
    at = np.stack(np.meshgrid(*lattice.axes, indexing="ij"), -1).reshape(-1, lattice.dim)
    scales = gp.lengthscales.tolist()

    def covariance(a, b, i, j):
        """Of entry i of the gradient at a with entry j at b; None for the value."""
        out = np.ones((len(a), len(b)))
        for k, scale in enumerate(scales):
            order = (i == k) + (j == k)
            out *= (-1) ** (j == k) * gp.kernel.derivative(a[:, k], b[:, k], scale, order)
        return out

    axes = range(lattice.dim)
    prior = np.block([[covariance(at, at, i, j) for j in axes] for i in axes])
    cross = np.vstack([covariance(at, gp.x, i, None) for i in axes])
    gram = covariance(gp.x, gp.x, None, None) + gp.noise * np.eye(len(gp.x))
    joint = prior - cross @ np.linalg.solve(gram, cross.T)
    values, vectors = np.linalg.eigh(joint)
    root = vectors * np.sqrt(np.maximum(values, 0))
    paths = rng.standard_normal((n_paths, len(joint))) @ root.T
    return np.abs(paths / np.sqrt(np.diag(joint))).max(axis=1)


@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
@pytest.mark.parametrize(("dim", "n"), [(1, 40), (2, 12), (3, 5)])
def test_largest_errors_have_the_law_of_the_joint_posterior(kernel, dim, n):
    gp, lattice = process(kernel, dim), lattice_of(dim, n)
    posterior = gp.lattice_posterior(lattice.axes)
    found = largest_errors(gp, lattice, posterior, 1500, np.random.default_rng(0))
    expected = exact_largest_errors(gp, lattice, 1500, np.random.default_rng(1))
    # Two samples of one law: the Kolmogorov-Smirnov distance exceeds this once in a thousand.
    grid = np.sort(np.concatenate([found, expected]))
    laws = [np.searchsorted(np.sort(s), grid, side="right") / 1500 for s in (found, expected)]
    assert np.abs(laws[0] - laws[1]).max() < 1.95 * np.sqrt(2 / 1500)


def test_the_simulation_does_not_depend_on_the_size_of_its_batches(monkeypatch):
    gp, lattice = process(MATERN_5_2, 2), lattice_of(2, 16)
    posterior = gp.lattice_posterior(lattice.axes)
    results = []
    for batch in (1, 10_000_000):
        monkeypatch.setattr(simulation, "_BATCH", batch)
        errors = largest_errors(gp, lattice, posterior, 200, np.random.default_rng(0))
        results.append(np.median(errors))
    assert results[0] == pytest.approx(results[1], rel=0.05)


@pytest.mark.slow
def test_the_simulated_band_is_narrower_and_reaches_its_level():
    gp, lattice = process(MATERN_5_2, 2, n=40), lattice_of(2, 96)
    posterior = gp.lattice_posterior(lattice.axes)
    proved = gradient_band(gp, lattice, posterior, 0.9)
    assert proved.halvings == 0
    found = simulated_band(gp, lattice, posterior, 0.9, np.random.default_rng(0))
    assert (found.radius < proved.radius).all()
    assert found.level >= 0.9
    # New paths stay inside at the lattice points at least as often as the level says.
    new = largest_errors(gp, lattice, posterior, 2000, np.random.default_rng(7))
    assert np.mean(new <= found.c) >= 0.9


def test_the_band_of_a_halved_lattice_is_taken_where_it_is_narrower():
    gp, lattice = process(MATERN_5_2, 2, n=40), lattice_of(2, 32)
    posterior = gp.lattice_posterior(lattice.axes)
    halved = gradient_band(gp, lattice, posterior, 0.9)
    found = simulated_band(gp, lattice, posterior, 0.9, np.random.default_rng(0))
    assert found.halvings == halved.halvings > 0
    assert np.array_equal(found.radius, halved.radius)


def test_levels_that_so_few_paths_cannot_reach_get_the_proved_band():
    gp, lattice = process(MATERN_5_2, 1), lattice_of(1, 32)
    posterior = gp.lattice_posterior(lattice.axes)
    proved = gradient_band(gp, lattice, posterior, 1 - 1e-6)
    found = simulated_band(gp, lattice, posterior, 1 - 1e-6, np.random.default_rng(0))
    assert found.c == proved.c
    assert found.level == proved.level

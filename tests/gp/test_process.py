"""Posteriors against GPyTorch, scikit-learn and the definitions in many digits."""

import itertools
import math

import gpytorch
import mpmath
import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from lightning_morse.analysis.design import design
from lightning_morse.gp import process
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess, SurrogateError
from tests.landscapes import bowl


def some_process(noise=1e-4, n=40, d=2, seed=0, kernel=MATERN_5_2):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, d))
    return GaussianProcess(
        x=x,
        y=np.sin(3 * x).sum(1) + x[:, 0] ** 2,
        lengthscales=np.array([0.7, 1.3, 0.9])[:d],
        variance=2.5,
        noise=noise,
        mean=0.3,
        kernel=kernel,
    )


POINTS = np.random.default_rng(9).uniform(-1.2, 1.2, (25, 2))


def gpytorch_model(gp):
    """The same process in GPyTorch, hyper-parameters given."""

    class Model(gpytorch.models.ExactGP):
        def __init__(self, x, y, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            factors = [gpytorch.kernels.MaternKernel(nu=2.5, active_dims=(j,)) for j in range(2)]
            self.covar_module = gpytorch.kernels.ScaleKernel(factors[0] * factors[1])

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    likelihood = gpytorch.likelihoods.GaussianLikelihood(
        noise_constraint=gpytorch.constraints.GreaterThan(1e-12)
    )
    model = Model(torch.from_numpy(gp.x), torch.from_numpy(gp.y), likelihood).double()
    model.mean_module.constant = gp.mean
    model.covar_module.outputscale = gp.variance
    for kernel, scale in zip(
        model.covar_module.base_kernel.kernels, gp.lengthscales.tolist(), strict=True
    ):
        kernel.lengthscale = scale
    likelihood.noise = gp.noise * gp.variance
    return model.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mean_gradient_hessian_and_variance_agree_with_gpytorch():
    gp = some_process()
    ours = gp.posterior(POINTS)
    points = torch.from_numpy(POINTS).requires_grad_()
    settings = gpytorch.settings
    with settings.fast_computations(False, False, False), settings.debug(False):
        theirs = gpytorch_model(gp)(points)
        mean = theirs.mean
        (gradient,) = torch.autograd.grad(mean.sum(), points, create_graph=True)
        hessian = torch.stack(
            [torch.autograd.grad(g.sum(), points, retain_graph=True)[0] for g in gradient.T], 1
        )
        deviation = theirs.variance.sqrt()
    assert ours.mean == pytest.approx(mean.detach().numpy(), abs=1e-6)
    assert ours.gradient == pytest.approx(gradient.detach().numpy(), abs=1e-6)
    assert ours.hessian == pytest.approx(hessian.numpy(), abs=1e-5)
    assert ours.deviation == pytest.approx(deviation.detach().numpy(), abs=1e-6)


def test_value_and_evidence_agree_with_scikit_learn_in_one_dimension():
    gp = some_process(d=1)
    kernel = ConstantKernel(2.5) * Matern(0.7, nu=2.5) + WhiteKernel(2.5e-4)
    reference = GaussianProcessRegressor(kernel, optimizer=None).fit(gp.x, gp.y - gp.mean)
    at = POINTS[:, :1]
    mean, deviation = reference.predict(at, return_std=True)
    ours = gp.posterior(at)
    assert ours.mean == pytest.approx(mean + gp.mean, abs=1e-6)
    # predict adds the observation noise
    assert ours.deviation**2 == pytest.approx(deviation**2 - 2.5e-4, abs=1e-6)


def exact_posterior(gp, at, digits=60):
    """Gradient mean and deviation in 60 digits, from the definitions."""
    with mpmath.workdps(digits):
        scales = [mpmath.mpf(float(s)) for s in gp.lengthscales]

        def kernel(u, scale, order):
            t = mpmath.sqrt(5) * abs(u) / scale
            if order == 0:
                return (1 + t + t**2 / 3) * mpmath.exp(-t)
            sign = -1 if u > 0 else 1
            return sign * mpmath.sqrt(5) / scale * t * (1 + t) / 3 * mpmath.exp(-t)

        def covariance(a, b, order):
            out = mpmath.mpf(1)
            for j, scale in enumerate(scales):
                out *= kernel(mpmath.mpf(float(a[j])) - mpmath.mpf(float(b[j])), scale, order[j])
            return out

        n, d = gp.x.shape
        gram = mpmath.matrix(n, n)
        for i, j in itertools.product(range(n), repeat=2):
            gram[i, j] = covariance(gp.x[i], gp.x[j], (0,) * d) + (i == j) * mpmath.mpf(gp.noise)
        y = mpmath.matrix([mpmath.mpf(float(v)) - mpmath.mpf(gp.mean) for v in gp.y])
        weights = mpmath.lu_solve(gram, y)
        mean, deviation = np.empty((len(at), d)), np.empty((len(at), d))
        for (p, point), i in itertools.product(enumerate(at), range(d)):
            order = tuple(int(j == i) for j in range(d))
            cross = mpmath.matrix([covariance(point, x, order) for x in gp.x])
            left = mpmath.mpf(5) / 3 / scales[i] ** 2 - (cross.T * mpmath.lu_solve(gram, cross))[0]
            mean[p, i] = (cross.T * weights)[0]
            deviation[p, i] = mpmath.sqrt(gp.variance * left)
        return mean, deviation


def test_gradient_and_its_variance_agree_with_the_definition():
    gp = some_process(n=20)
    mean, deviation = exact_posterior(gp, POINTS[:6])
    ours = gp.posterior(POINTS[:6])
    assert ours.gradient == pytest.approx(mean, abs=1e-9)
    assert ours.gradient_deviation == pytest.approx(deviation, abs=1e-9)


@pytest.mark.slow
def test_variances_survive_a_hopeless_condition_number():
    """64 samples on a line, a scale 20 times the box: the kernel matrix alone is singular."""
    x = np.linspace(-1, 1, 48)[:, None]
    gp = GaussianProcess(
        x=x,
        y=np.exp(x[:, 0]),
        lengthscales=np.array([40.0]),
        variance=1e6,
        noise=1e-11,
        mean=0.0,
    )
    alone = gp._covariance - gp.noise * np.eye(48)
    assert np.linalg.cond(alone) > 1e14
    at = np.array([[0.0], [0.013], [0.9], [1.0], [1.5]])
    mean, deviation = exact_posterior(gp, at)
    ours = gp.posterior(at)
    assert ours.gradient_deviation == pytest.approx(deviation, rel=0.05)
    assert (np.abs(ours.gradient - mean) < 0.05 * deviation).all()


def test_variance_is_never_zero_away_from_the_data():
    gp = fit(design([-1], [1], 64, 0), bowl(design([-1], [1], 64, 0)), [-1], [1])
    at = np.linspace(-1, 1, 1001)[:, None]
    assert (gp.posterior(at).gradient_deviation > 0).all()


def test_a_noise_level_that_rounding_drowns_is_refused():
    x = np.linspace(-1, 1, 60)[:, None]
    with pytest.raises(SurrogateError, match="Use a noise ratio of at least"):
        GaussianProcess(
            x=x, y=x[:, 0], lengthscales=np.array([30.0]), variance=1.0, noise=1e-15, mean=0.0
        )


def test_lattice_posterior_is_the_posterior_at_its_points(monkeypatch):
    gp = some_process()
    axes = [np.linspace(-1, 1, 7), np.linspace(0, 1, 5)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    expected = gp.posterior(points)
    np.testing.assert_array_equal(gp.values(points).mean, expected.mean)
    np.testing.assert_array_equal(gp.values(points).deviation, expected.deviation)
    for chunk in (4, 1000):
        monkeypatch.setattr(process, "_CHUNK", chunk)
        found = gp.lattice_posterior(axes)
        values = gp.lattice_values(axes)
        np.testing.assert_array_equal(values.mean, found.mean)
        np.testing.assert_array_equal(values.deviation, found.deviation)
        for name in ("mean", "deviation", "gradient", "gradient_deviation", "hessian"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-10)


@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_gradient_and_hessian_are_derivatives_of_the_mean(kernel):
    gp = some_process(kernel=kernel)
    at = np.array([0.21, -0.4])
    gradient = approx_fprime(at, lambda p: gp.posterior(p[None]).mean[0], 1e-6)
    assert gp.posterior(at[None]).gradient[0] == pytest.approx(gradient, abs=1e-4)
    hessian = approx_fprime(at, lambda p: gp.posterior(p[None]).gradient[0], 1e-6)
    assert gp.posterior(at[None]).hessian[0] == pytest.approx(hessian, abs=1e-3)


def test_points_of_a_grid_have_the_correlations_that_each_has_alone():
    rng = np.random.default_rng(4)
    process = some_process()
    grid = np.stack(np.meshgrid(*[rng.normal(size=5)] * 2), axis=-1).reshape(-1, 2)
    others, orders = rng.normal(size=(7, 2)), [(0, 0), (1, 0), (0, 2)]
    together = process.prior_correlations(grid, others, orders)
    alone = [process.prior_correlations(point[None], others, orders) for point in grid]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-13)


def test_leave_one_out_equals_refitting_without_each_sample():
    gp = some_process(n=15)
    found = gp.leave_one_out()
    for i in range(15):
        keep = np.arange(15) != i
        rest = GaussianProcess(
            x=gp.x[keep],
            y=gp.y[keep],
            lengthscales=gp.lengthscales,
            variance=gp.variance,
            noise=gp.noise,
            mean=gp.mean,
        ).posterior(gp.x[i : i + 1])
        spread = math.sqrt(rest.deviation[0] ** 2 + gp.variance * gp.noise)
        assert found[i] == pytest.approx((gp.y[i] - rest.mean[0]) / spread, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(3)}, "must have shapes"),
        ({"variance": 0.0}, "must be positive"),
        ({"lengthscales": np.array([1.0, -1.0])}, "must be positive"),
    ],
)
def test_bad_processes_are_refused(change, message):
    gp = some_process()
    given = {
        name: getattr(gp, name) for name in ("x", "y", "lengthscales", "variance", "noise", "mean")
    }
    with pytest.raises(ValueError, match=message):
        GaussianProcess(**{**given, **change})


def test_points_of_the_wrong_shape_are_refused():
    gp = some_process()
    for ask in (gp.posterior, gp.values, gp.derivative_distribution):
        with pytest.raises(ValueError, match=r"points must have shape \(m, 2\), got \(3, 1\)"):
            ask(np.zeros((3, 1)))

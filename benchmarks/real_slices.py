r"""Are the claims true on slices of real networks?

    python benchmarks/real_slices.py [--seeds 7] [--kinds pca random solutions]
        [--activations tanh gelu relu] [--samples 128]

Networks 64-32-10 on a fixed subset of scikit-learn's digits, cross-entropy plus 1e-3 times
the sum of squares of the weights, trained full batch with Adam. Slices: the principal directions of
the trajectory, box 1.5 times its extent (``pca``); filter-normalised random directions, box one
norm of the weights to each side (``random``); the plane through three solutions, box 1.5 times
their largest coordinates (``solutions``). ``analyze`` sees only its loss samples.

*Truth 1* is the same engine on the exact gradient at every point of the lattice, with a band of
width zero. *Truth 2* is the flow of the exact gradient from random points, interpolated linearly on
the same lattice. Wherever a certain label of the analysis disagrees with either, the flow from that
point is integrated once more with the exact gradient at every step (for at most 24 points of a
slice, chosen at random), and only that verdict counts:

* a label of attractor ``a`` is wrong if the flow leaves the box or ends more than one cell away
  from the Morse set ``a``; an escape is wrong if the flow ends inside the box;
* a count is wrong if more attractors are claimed than there are, if the claim is "exactly" and
  there are more, or if a claimed Morse set has no end point of a flow within one cell. There are as
  many attractors as groups of end points, where points within two cells belong to one group.

A slice is wrong if it has a wrong label or a wrong count and says mu >= 0.95. Other columns: the
shares of the box in certain basins and escaping, each next to truth 1; the largest error of the
posterior mean of the gradient over the lattice, in standard deviations (next to ``c``, the
half-width of the band in these) and in half-widths of the band (above 1, the event that `mu` is
about did not happen); the kernel chosen, the number of samples needed; the largest standardised
leave-one-out residual, the largest standardised error of a held-out derivative, and the factor by
which deviations were inflated because of them (errors are relative to the inflated ones).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta
from sklearn.datasets import load_digits
from torch import Tensor

import lightning_morse as lm
from lightning_morse.bands.gradient import GradientBand, gradient_band
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.enclosure.flow_map import critical_cells, image_boxes
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess, Posterior, SurrogateError
from lightning_morse.gp.warp import Warp
from lightning_morse.grids.lattice import Lattice
from lightning_morse.monitoring.extent import half_widths
from lightning_morse.slices.bases import pca_directions, random_directions
from lightning_morse.slices.subspace import AffineSubspace

CONFIDENCE = 0.95
WEIGHT_DECAY = 1e-3
KINDS = ("pca", "random", "solutions")
ACTIVATIONS = ("tanh", "gelu", "relu")
SHAPES = ((32, 64), (32,), (10, 32), (10,))
_SIZES = [math.prod(s) for s in SHAPES]
# Points evaluated at once: the arrays of one chunk fit into a cache.
_CHUNK = 32
# Disagreements settled by exact flows, in one slice.
_MOST_DISPUTES = 24


def activate(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """Activation and its derivative."""
    if name == "tanh":
        h = torch.tanh(z)
        return h, 1 - h * h
    if name == "relu":
        return z.clamp_min(0), (z > 0).to(z)
    normal = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return z * normal, normal + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def layers(flat: Tensor) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(flat.split(_SIZES), SHAPES, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """The probe set: a fixed subset of the digits."""

    images: Tensor
    labels: Tensor

    @classmethod
    def subset(cls, size: int) -> Digits:
        """The same digits for the same size."""
        images, labels = load_digits(return_X_y=True)
        chosen = np.random.default_rng(0).permutation(len(labels))[:size]
        return cls(torch.from_numpy(images[chosen] / 16), torch.from_numpy(labels[chosen]).long())

    def train(self, activation: str, seed: int, steps: int) -> tuple[Tensor, Tensor]:
        """Flat weights of a trained network, and every tenth iterate on the way there."""
        generator = torch.Generator().manual_seed(seed)
        flat = torch.cat(
            [
                (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) / fan_in**0.5
                for size, fan_in in zip(_SIZES, (64, 64, 32, 32), strict=True)
            ]
        ).requires_grad_()
        optimizer = torch.optim.Adam([flat], lr=1e-2)
        path = []
        for step in range(steps):
            if step % 10 == 0:
                path.append(flat.detach().clone())
            w1, b1, w2, b2 = layers(flat)
            hidden, _ = activate(activation, self.images @ w1.T + b1)
            loss = torch.nn.functional.cross_entropy(hidden @ w2.T + b2, self.labels)
            optimizer.zero_grad()
            (loss + WEIGHT_DECAY * flat.square().sum()).backward()
            optimizer.step()
        return flat.detach(), torch.stack(path)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkSlice:
    """Loss and exact gradient of a network on a plane of its weight space, and a box there."""

    digits: Digits
    activation: str
    plane: AffineSubspace
    half: np.ndarray

    def loss(self, x: Tensor) -> Tensor:
        """Losses at points of shape (n, 2)."""
        return torch.cat([self._evaluate(part, slope=False)[0] for part in x.split(_CHUNK)])

    def loss_and_gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses and gradients, shapes (n,) and (n, 2)."""
        parts = [self._evaluate(p, slope=True) for p in torch.from_numpy(x).split(_CHUNK)]
        loss, slope = (torch.cat(p) for p in zip(*parts, strict=True))
        return loss.numpy(), slope.numpy()

    def _evaluate(self, x: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
        # The weights are affine in x, and so are the inputs of the hidden layer.
        origin, directions = self.plane.origin, self.plane.directions
        bases = [layers(v) for v in (origin, *directions.T)]
        inputs = torch.stack([self.digits.images @ w1.T + b1 for w1, b1, _, _ in bases])
        along = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
        hidden, change = activate(self.activation, torch.tensordot(along, inputs, 1))
        w2 = torch.tensordot(along, torch.stack([b[2] for b in bases]), 1)
        b2 = torch.tensordot(along, torch.stack([b[3] for b in bases]), 1)
        logits = hidden @ w2.mT + b2[:, None]
        log_p = logits.log_softmax(dim=-1)
        truth = self.digits.labels
        loss = -log_p[:, torch.arange(len(truth)), truth].mean(dim=1)
        offset = directions.T @ origin
        loss = loss + WEIGHT_DECAY * (origin @ origin + 2 * x @ offset + x.square().sum(dim=1))
        if not slope:
            return loss, loss
        residual = log_p.exp()
        residual[:, torch.arange(len(truth)), truth] -= 1
        gradient = torch.stack(
            [
                (residual * ((change * inputs[k]) @ w2.mT + hidden @ bases[k][2].T + bases[k][3]))
                .sum(dim=2)
                .mean(dim=1)
                for k in range(1, len(bases))
            ],
            dim=1,
        )
        return loss, gradient + 2 * WEIGHT_DECAY * (offset + x)


def make_slice(digits: Digits, kind: str, activation: str, seed: int, steps: int) -> NetworkSlice:
    weights, path = digits.train(activation, 3 * seed, steps)
    if kind == "pca":
        plane = AffineSubspace(weights, pca_directions(torch.cat([path, weights[None]]), 2))
        half = half_widths(plane.project(path).numpy())
    elif kind == "random":
        generator = torch.Generator().manual_seed(seed)
        directions, norms = random_directions(layers(weights), 2, generator)
        plane, half = AffineSubspace(weights, directions), norms.numpy()
    else:
        others = [digits.train(activation, 3 * seed + k, steps)[0] for k in (1, 2)]
        plane = lm.plane_through([weights, *others])
        half = 1.5 * plane.project(torch.stack([weights, *others])).abs().amax(dim=0).numpy()
    return NetworkSlice(digits, activation, plane, half)


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The exact gradient of a warped loss on a lattice, and the engine's result for it.

    Orbits do not depend on the warp; this one keeps the field from being steep outside, flat
    inside. It is chosen from the lattice and has nothing to do with the fitted one.
    """

    lattice: Lattice
    loss: np.ndarray
    gradient: np.ndarray
    warp: Warp
    labels: np.ndarray
    attractors: list[np.ndarray]

    @classmethod
    def of(cls, network: NetworkSlice, lattice: Lattice, band: GradientBand) -> Truth:
        """Evaluate the gradient on the lattice; of the band only the shape is used."""
        mesh = np.meshgrid(*lattice.axes, indexing="ij")
        points = np.stack([m.ravel() for m in mesh], axis=1)
        loss, gradient = network.loss_and_gradient(points)
        lowest = float(loss.min())
        warp = Warp(lowest, float(np.median(loss)) - lowest)
        warped = gradient / (1 + (loss - lowest) / warp.scale)[:, None]
        shape = tuple(n + 1 for n in lattice.cells)
        slopes = [np.gradient(warped[:, i].reshape(shape), *lattice.axes) for i in (0, 1)]
        hessian = np.stack([np.stack([s.ravel() for s in row], -1) for row in slopes], -2)
        posterior = Posterior(
            mean=warp(loss),
            deviation=np.zeros_like(loss),
            gradient=warped,
            gradient_deviation=np.zeros_like(warped),
            hessian=0.5 * (hessian + hessian.swapaxes(1, 2)),
        )
        exact = dataclasses.replace(band, radius=np.zeros_like(band.radius))
        images = image_boxes(lattice, posterior, exact)
        image = outer_approximation(
            images.lower, images.upper, lattice.grid, exits=images.exits.any(axis=(1, 2))
        )
        critical = lattice.any_in_grid_cell(critical_cells(lattice, posterior, exact))
        found = morse_graph(image, critical=critical)
        labels = certain_labels(found)
        number = {a: i for i, a in enumerate(found.attractors)}
        renumber = np.array([number.get(i, -1) for i in range(len(found.morse_sets))] + [-2, -1])
        attractors = [found.morse_sets[a] for a in found.attractors]
        return cls(lattice, loss, gradient, warp, renumber[labels], attractors)

    def velocity(self, u: np.ndarray) -> np.ndarray:
        """Interpolated velocity in lattice units."""
        return np.stack([map_coordinates(v, u.T, order=1, mode="nearest") for v in self._field], 1)

    @property
    def _field(self) -> list[np.ndarray]:
        warped = self.gradient / (1 + (self.loss - self.warp.origin) / self.warp.scale)[:, None]
        shape = tuple(n + 1 for n in self.lattice.cells)
        return [-(warped[:, i] / self.lattice.spacing[i]).reshape(shape) for i in (0, 1)]


Velocity = Callable[[np.ndarray], np.ndarray]


def flow(
    velocity: Velocity, start: np.ndarray, extent: np.ndarray, still: float, most_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Follow points until they leave the box or come to rest: Bogacki-Shampine, own step sizes.

    Args:
        velocity: Maps points (n, 2) to velocities, in lattice units.
        start: Where to start, shape (n, 2), lattice units.
        extent: Upper corner of the box; the lower one is zero.
        still: Speed below which a point has arrived.
        most_steps: Points still moving after this many steps stay where they are.

    Returns:
        Where the points ended, and whether each left the box (1), arrived (0) or did neither (-1).
    """
    end, status = start.copy(), np.full(len(start), -1)
    active = np.arange(len(start))
    y, v = start.copy(), velocity(start)
    step = 0.5 / np.maximum(np.abs(v).max(axis=1), 1e-300)
    for _ in range(most_steps):
        h = step[:, None]
        k2 = velocity(y + 0.5 * h * v)
        k3 = velocity(y + 0.75 * h * k2)
        ahead = y + h * (2 * v + 3 * k2 + 4 * k3) / 9
        k4 = velocity(ahead)
        error = np.abs(h * (-5 * v / 72 + k2 / 12 + k3 / 9 - k4 / 8)).max(axis=1)
        # The second bound keeps stiff directions from oscillating at the scale of the first.
        allowed = np.minimum(1e-3, 0.02 * step * np.abs(v).max(axis=1)) + 1e-14
        taken = (error <= allowed)[:, None]
        y, v = np.where(taken, ahead, y), np.where(taken, k4, v)
        step = step * np.clip(0.9 * (allowed / np.maximum(error, 1e-16)) ** (1 / 3), 0.2, 3)
        speed = np.abs(v).max(axis=1)
        step = np.minimum(step, 1 / np.maximum(speed, 1e-300))
        left = ((y < 0) | (y > extent)).any(axis=1)
        arrived = ~left & (speed < still)
        status[active[left]], status[active[arrived]] = 1, 0
        end[active] = y
        keep = ~(left | arrived)
        active, y, v, step = active[keep], y[keep], v[keep], step[keep]
        if not active.size:
            break
    return end, status


def surrogate_of(result: lm.MorseAnalysis) -> GaussianProcess:
    """The surrogate behind an analysis, rebuilt from the facts it records."""
    facts = result.surrogate
    floor = -math.inf if facts.loss_floor is None else facts.loss_floor
    warp = Warp(facts.loss_origin, facts.loss_origin - floor)
    kernel = MATERN_7_2 if facts.kernel == MATERN_7_2.name else MATERN_5_2
    return GaussianProcess(
        x=result.samples,
        y=warp(result.sample_losses),
        lengthscales=np.array(facts.lengthscales),
        variance=facts.deviation**2,
        noise=(facts.noise_deviation / facts.deviation) ** 2,
        mean=facts.mean,
        kernel=kernel,
        warp=warp,
    )


def judge(
    network: NetworkSlice, n_samples: int, resolution: int, n_starts: int, seed: int
) -> dict[str, object]:
    """Analyse a slice and compare all claims with the truth."""
    low, up = -network.half, network.half
    try:
        result = lm.analyze(
            network.loss, low, up, n_samples, resolution, confidence=CONFIDENCE, seed=seed
        )
    except SurrogateError as refusal:
        return {"refused": str(refusal)}
    lattice = Lattice.of(result.grid)
    surrogate = surrogate_of(result)
    posterior = surrogate.lattice_posterior(lattice.axes)
    # As wide as in the analysis, where a tenth of the failure probability is left for other claims.
    band = gradient_band(surrogate, lattice, posterior, 1 - 0.9 * (1 - CONFIDENCE))
    truth = Truth.of(network, lattice, band)
    claims = Claims(network, result, lattice, truth, seed)
    verdict = claims.judged(n_starts)

    # The band, in the units of the warped loss.
    bend = 1 + (truth.loss - surrogate.warp.origin) / surrogate.warp.scale
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(truth.gradient / bend[:, None] - posterior.gradient)
    error[bend <= 0] = math.inf
    return {
        "mu": result.mu,
        "claimed": result.n_attractors,
        "exact": result.n_unresolved == 0,
        "engine": len(truth.attractors),
        "basins": float(np.mean(result.labels >= 0)),
        "true basins": float(np.mean(truth.labels >= 0)),
        "escape": float(np.mean(result.labels == ESCAPES)),
        "true escape": float(np.mean(truth.labels == ESCAPES)),
        "error": float((error / posterior.gradient_deviation).max()),
        "c": band.c,
        "violation": float((lattice.largest_corner(error) / band.radius).max()),
        "loo": result.surrogate.largest_residual,
        "held out": result.surrogate.largest_held_out,
        "factor": result.calibration,
        "samples": len(result.samples),
        "kernel": surrogate.kernel.name.split("-")[-1],
        **verdict,
        "wrong": bool(verdict["wrong labels"] or verdict["wrong count"]) and result.mu > 0,
    }


class Claims:
    """Labels and counts of an analysis, held against flows of the true gradient.

    Points ``u`` are in lattice cells from the lower corner, shape ``(n, 2)``.
    """

    def __init__(
        self,
        network: NetworkSlice,
        result: lm.MorseAnalysis,
        lattice: Lattice,
        truth: Truth,
        seed: int,
    ) -> None:
        self.network, self.result, self.lattice, self.truth = network, result, lattice, truth
        self.rng = np.random.default_rng(seed)
        self.extent = np.array(lattice.cells, dtype=float)
        self.per_cell = np.array(lattice.refinement)
        self.neighbourhoods = {a: _neighbourhood(result, a) for a in result.attractors}

    def judged(self, n_starts: int) -> dict[str, object]:
        """How many claims are wrong."""
        starts = self._starts(n_starts)
        speed = np.abs(self.truth.velocity(starts)).max(axis=1)
        still = 1e-6 * float(np.median(speed))
        flown = flow(self.truth.velocity, starts, self.extent, still, most_steps=6000)
        return {**self._labels(starts, *flown, still), **self._counts(*flown)}

    def _starts(self, n: int) -> np.ndarray:
        """Points anywhere, and one in each attractor, claimed or true."""
        starts = self.rng.uniform(size=(n, 2)) * self.extent
        result = self.result
        holding = [result.morse_sets[a].cells for a in result.attractors] + self.truth.attractors
        inside = np.array([cells[cells.size // 2] for cells in holding], dtype=int)
        extra = np.stack(np.unravel_index(inside, result.grid.shape), 1) + 0.45
        return np.concatenate([starts, extra * self.per_cell])

    def _labels(
        self, starts: np.ndarray, ends: np.ndarray, status: np.ndarray, still: float
    ) -> dict[str, object]:
        """Labels that a flow on the lattice contradicts, and those that the exact one does."""
        disputed = starts[self._contradicted(starts, ends, status)]
        cells = np.flatnonzero(_labels_differ(self.result.labels, self.truth, self.neighbourhoods))
        middle = np.stack(np.unravel_index(cells, self.result.grid.shape), 1) + 0.5
        disputed = np.concatenate([disputed, middle * self.per_cell])
        found = {"disputed": len(disputed), "wrong labels": 0, "unsettled": 0}
        if not len(disputed):
            return found
        disputed = self.rng.permutation(disputed)[:_MOST_DISPUTES]
        at, verdict = flow(self._exact, disputed, self.extent, still, most_steps=1500)
        found["wrong labels"] = int(self._contradicted(disputed, at, verdict).sum())
        found["unsettled"] = int((verdict == -1).sum())
        return found

    def _counts(self, ends: np.ndarray, status: np.ndarray) -> dict[str, object]:
        """Whether there are other attractors than those claimed."""
        arrived = ends[status == 0]
        n_true = _groups(arrived / self.per_cell, 2.0)
        at_end = self._cells_of(arrived)
        unfounded = sum(not near[at_end].any() for near in self.neighbourhoods.values())
        count, is_exact = self.result.n_attractors, not self.result.n_unresolved
        return {
            "flows": n_true,
            "slow": int((status == -1).sum()),
            "wrong count": count > n_true or bool(unfounded) or (is_exact and count != n_true),
        }

    def _cells_of(self, u: np.ndarray) -> np.ndarray:
        low, up = self.result.grid.lower, self.result.grid.upper
        return self.result.grid.cell_of(np.clip(low + u * self.lattice.spacing, low, up))

    def _contradicted(self, u: np.ndarray, ended: np.ndarray, status: np.ndarray) -> np.ndarray:
        label, cell = self.result.labels[self._cells_of(u)], self._cells_of(ended)
        wrong = (label == ESCAPES) & (status == 0)
        for a, near in self.neighbourhoods.items():
            wrong |= (label == a) & ((status == 1) | ((status == 0) & ~near[cell]))
        return wrong

    def _exact(self, u: np.ndarray) -> np.ndarray:
        """Velocity of the flow of the network's own gradient."""
        warp, spacing = self.truth.warp, self.lattice.spacing
        loss, gradient = self.network.loss_and_gradient(-self.network.half + u * spacing)
        time = np.maximum(1 + (loss - warp.origin) / warp.scale, 0.1)
        return -gradient / time[:, None] / spacing


def _neighbourhood(result: lm.MorseAnalysis, attractor: int) -> np.ndarray:
    """Cells of a Morse set and those that touch it."""
    mask = np.zeros(result.grid.size, dtype=bool)
    mask[result.morse_sets[attractor].cells] = True
    return binary_dilation(mask.reshape(result.grid.shape), np.ones((3, 3))).ravel()


def _labels_differ(
    labels: np.ndarray, truth: Truth, neighbourhoods: dict[int, np.ndarray]
) -> np.ndarray:
    """Cells where the analysis and the engine on the exact gradient are certain but disagree."""
    differ = ((labels == ESCAPES) & (truth.labels >= 0)) | ((labels >= 0) & (truth.labels == -2))
    for a, near in neighbourhoods.items():
        for t, cells in enumerate(truth.attractors):
            if not near[cells].any():
                differ |= (labels == a) & (truth.labels == t)
    return differ


def _groups(points: np.ndarray, distance: float) -> int:
    """Number of groups of points chained together by neighbours within a distance."""
    if not len(points):
        return 0
    near = np.abs(points[:, None] - points[None]).max(axis=2) <= distance
    return int(connected_components(near, directed=False)[0])


def interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval for the probability behind a number of hits."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


HEADER = """\
| slice | activation | seed | 1 - mu | attractors claimed | truth: engine, flows | in basins \
| truth | escape | truth | error / deviation | c | error / band | kernel | samples \
| largest LOO, held out, factor | labels disputed, wrong | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def as_row(row: dict) -> str:
    name = f"| {row['kind']} | {row['activation']} | {row['seed']} "
    if "refused" in row:
        return f"{name}| refused: {row['refused']} |" + " |" * 14
    how = "exactly" if row["exact"] else "at least"
    slow = f" ({row['slow']} slow)" if row["slow"] else ""
    unsettled = f" ({row['unsettled']} unsettled)" if row["unsettled"] else ""
    alarm = "**wrong**" if row["wrong"] else ("band" if row["violation"] > 1 else "")
    return (
        f"{name}| {1 - row['mu']:.1e} | {how} {row['claimed']} "
        f"| {row['engine']}, {row['flows']}{slow} "
        f"| {row['basins']:.2f} | {row['true basins']:.2f} | {row['escape']:.2f} "
        f"| {row['true escape']:.2f} | {row['error']:.1f} | {row['c']:.1f} "
        f"| {row['violation']:.2f} | {row['kernel']} | {row['samples']} "
        f"| {row['loo']:.1f}, {row['held out']:.1f}, {row['factor']:.2f} "
        f"| {row['disputed']}, {row['wrong labels']}{unsettled} "
        f"| {alarm} |"
    )


def share(name: str, hits: int, trials: int) -> str:
    low, high = interval(hits, trials) if trials else (0.0, 1.0)
    return f"| {name} | {hits} of {trials} | {low:.3f} to {high:.3f} |"


def totals(rows: list[dict]) -> str:
    """The table of shares, each with its exact interval."""
    told = [r for r in rows if "refused" not in r]
    n = len(told)
    lines = ["| over all slices | share | exact 95 % interval |", "|---|---|---|"]
    lines += [
        share("wrong label or wrong count at mu >= 0.95", sum(r["wrong"] for r in told), n),
        share("a wrong label", sum(r["wrong labels"] > 0 for r in told), n),
        share("a wrong count", sum(r["wrong count"] for r in told), n),
        share("gradient outside the band", sum(r["violation"] > 1 for r in told), n),
        share("refused", len(rows) - n, len(rows)),
        share("exact count claimed", sum(r["exact"] for r in told), n),
        share("all attractors found", sum(r["claimed"] == r["flows"] for r in told), n),
    ]
    for activation in dict.fromkeys(r["activation"] for r in told):
        planes = [r for r in told if (r["kind"], r["activation"]) == ("solutions", activation)]
        good = sum(
            r["claimed"] >= 3 and r["mu"] >= CONFIDENCE and r["basins"] >= 0.85 * r["true basins"]
            for r in planes
        )
        if planes:
            name = f"three solutions, {activation}: 3 found, basins at least 85 % of the truth's"
            lines.append(share(name, good, len(planes)))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=7, help="seeds of each kind and activation")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--samples", type=int, default=128, help="loss evaluations of an analysis")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    parser.add_argument("--digits", type=int, default=512, help="size of the probe set")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each network")
    parser.add_argument("--starts", type=int, default=300, help="flows of the exact gradient")
    args = parser.parse_args(argv)

    start = time.perf_counter()
    digits = Digits.subset(args.digits)
    rows = []
    print(HEADER)
    for kind in args.kinds:
        for activation in args.activations:
            for seed in range(args.seeds):
                network = make_slice(digits, kind, activation, seed, args.steps)
                row = judge(network, args.samples, args.resolution, args.starts, seed)
                rows.append({"kind": kind, "activation": activation, "seed": seed, **row})
                print(as_row(rows[-1]), flush=True)
    print()
    print(totals(rows))
    print(f"\n{len(rows)} slices, {time.perf_counter() - start:.0f} s")
    return rows


if __name__ == "__main__":
    main()

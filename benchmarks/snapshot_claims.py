"""What is claimed about the snapshots of a single run, and how much of it is wrong.

    python benchmarks/snapshot_claims.py               # about three minutes

*Descents*: runs of 24 steps in known fields, from random starts, with noise in each step. A
certain attractor is wrong if the noiseless step leads out of its cells from a point in them; a
label is wrong if the flow takes the centre of a cell elsewhere.

*Saddles*: runs of a linear map that approach along the stable axis of a saddle, where there is no
attractor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_morse.conley.point_maps import time_map
from lightning_morse.monitoring.extent import half_widths
from lightning_morse.monitoring.snapshot_map import analyze_snapshots
from lightning_morse.result import MorseAnalysis

Array = NDArray[np.float64]
Field = Callable[[Array], Array]

STEPS = 24
NOISES = (0.0, 1e-3, 2e-2)


def double_well(z: Array) -> Array:
    return -np.stack([z[:, 0] ** 3 - z[:, 0], 0.4 * z[:, 1]], axis=1)


def himmelblau(z: Array) -> Array:
    x, y = 3 * z.T
    a, b = x**2 + y - 11, x + y**2 - 7
    return -0.02 * np.stack([4 * x * a + 2 * b, 2 * a + 4 * y * b], axis=1)


def van_der_pol(z: Array) -> Array:
    x, y = z.T
    return np.stack([y, (1 - x**2) * y - x], axis=1)


FIELDS: dict[str, tuple[Field, float]] = {
    "double well": (double_well, 0.3),
    "Himmelblau": (himmelblau, 0.15),
    "Van der Pol": (van_der_pol, 0.4),
}


def analysed(path: Array, resolution: int) -> MorseAnalysis | None:
    """As in the monitor: around the last state, in a box as large as the reach of the run."""
    try:
        return analyze_snapshots(path, half_widths(path), resolution)
    except ValueError:
        return None


def descents(name: str, noise: float, n_runs: int) -> dict[str, int]:
    field, tau = FIELDS[name]
    step, onwards = time_map(field, tau, 8), time_map(field, 60.0, 2000)
    counts = dict.fromkeys(("runs", "analysed", "claims", "wrong blocks", "wrong labels"), 0)
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        path = [rng.uniform(-1.6, 1.6, (1, 2))]
        for _ in range(STEPS):
            path.append(step(path[-1]) + noise * rng.standard_normal((1, 2)))
        here = path[-1]
        result = analysed(np.concatenate(path) - here, 48)
        counts["runs"] += 1
        if result is None or result.mu == 0:
            continue
        counts["analysed"] += 1
        low, up = result.grid.cell_bounds()
        for a in result.attractors:
            counts["claims"] += 1
            block = result.morse_sets[a].cells
            points = rng.uniform(low[block], up[block], (10, len(block), 2)).reshape(-1, 2)
            ends = result.grid.cell_of(step(points + here) - here)
            counts["wrong blocks"] += not np.isin(ends, block).all()
            cells = np.flatnonzero(result.labels == a)
            ends = result.grid.cell_of(onwards((low[cells] + up[cells]) / 2 + here) - here)
            counts["wrong labels"] += int((~np.isin(ends, block)).sum())
    return counts


def saddles() -> dict[str, int]:
    counts = dict.fromkeys(("runs", "analysed", "claims"), 0)
    sizes = (0, 1e-4, 1e-2)
    cases = product((0.5, 0.8, 0.9), (1.05, 1.3), sizes, sizes, (0, 0.6), (0, 1))
    for stable, unstable, off, noise, turn, seed in cases:
        rng = np.random.default_rng(seed)
        path = [np.array([1.0, off])]
        for _ in range(31 if unstable < 1.2 else 15):
            path.append(path[-1] * [stable, unstable] + noise * rng.standard_normal(2))
        c, s = np.cos(turn), np.sin(turn)
        turned = np.array(path) @ [[c, -s], [s, c]]
        result = analysed(turned - turned[-1], 64)
        counts["runs"] += 1
        counts["analysed"] += result is not None
        if result is not None and result.mu > 0:
            counts["claims"] += result.n_attractors
    return counts


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, int]]:
    """Run both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="descents for each field and noise")
    args = parser.parse_args(argv)
    found = {
        f"{name}, noise {noise:g}": descents(name, noise, args.runs)
        for name, noise in product(FIELDS, NOISES)
    }
    found["saddles"] = saddles()
    for name, counts in found.items():
        print(f"{name}: " + ", ".join(f"{v} {k}" for k, v in counts.items()), flush=True)
    return found


if __name__ == "__main__":
    main()

"""A chain of three weights with decay, in three dimensions: are all nine critical points found?

    python benchmarks/chain_of_three.py [--decay 0.2] [--samples 1000] [--resolution 96]

Five minima and four saddles, whose places and losses theory gives
(:func:`lightning_morse.deep_linear.chain_critical_points`). At a decay of 0.2 the saddles are only
0.004 above the minimum at the origin, for a loss that reaches 5 in the box.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lightning_morse as lm
from lightning_morse import deep_linear as dl

EXAMPLE = Path(__file__).parents[1] / "examples" / "deep_linear.py"


def main(argv: Sequence[str] | None = None) -> lm.MorseAnalysis:
    """Analyse the chain and print what is found beside what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decay", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=1000, help="loss evaluations")
    parser.add_argument("--resolution", type=int, default=96, help="cells per axis")
    parser.add_argument("--half", type=float, default=1.25, help="half-width of the box")
    args = parser.parse_args(argv)
    known = dl.chain_critical_points(3, 1.0, args.decay)
    loss = runpy.run_path(str(EXAMPLE))["chain"](3, args.decay)
    start = time.perf_counter()
    box = [-args.half] * 3, [args.half] * 3
    result = lm.analyze(loss, *box, args.samples, args.resolution)
    minima = sum(point.index == 0 for point in known)
    print(f"theory: {minima} attractors, {len(known)} critical points")
    print(f"found: {result.claim}, {result.n_morse_sets} Morse sets")
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s, {result.seconds['posterior']:.0f} of them posteriors")
    print("| index | distance from the centre of the nearest Morse set | error of its loss |")
    print("|---|---|---|")
    for point in known:
        nearest = min(result.morse_sets, key=lambda m: np.linalg.norm(m.center - point.weights))
        distance = np.linalg.norm(nearest.center - point.weights)
        print(f"| {point.index} | {distance:.1e} | {abs(nearest.loss - point.loss):.1e} |")
    return result


if __name__ == "__main__":
    main()

"""Morse graph of a function, without a network: Himmelblau's, with four minima on a square.

Run with ``python examples/himmelblau.py --out himmelblau``; it writes three pictures and the
analysis, and prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import lightning_morse as lm


def himmelblau(x: torch.Tensor) -> torch.Tensor:
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def main(argv: Sequence[str] | None = None) -> lm.MorseAnalysis:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=128, help="loss evaluations")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    parser.add_argument("--out", type=Path, default=Path("runs/himmelblau"), help="folder")
    args = parser.parse_args(argv)

    result = lm.analyze(
        himmelblau, [-5, -5], [5, 5], n_samples=args.samples, resolution=args.resolution
    )

    args.out.mkdir(parents=True, exist_ok=True)
    lm.plot_basins(result, axis_labels=("x", "y")).savefig(args.out / "basins.png")
    lm.plot_morse_graph(result).savefig(args.out / "graph.png")
    lm.plot_merge_diagram(result).savefig(args.out / "merge.png")
    result.save(args.out / "analysis.npz")
    print(
        f"{result.claim}, wrong with probability {1 - result.mu:.2g} at most, "
        f"{result.undecided:.1%} of the box undecided"
    )
    print(result.table())
    print(f"Pictures: {args.out / 'basins.png'}, {args.out / 'graph.png'}")
    return result


if __name__ == "__main__":
    main()

"""Whether results are the same, to the bit, before and after a change that should alter none.

    python benchmarks/golden.py write before.json      # on the old code
    python benchmarks/golden.py compare before.json    # on the new code, same machine and versions

Each result is broken into its fields; a field is a hash of its bytes, so a difference is named.
Wall times are left out. Linear algebra libraries choose their kernels by processor, so a file is
only good for the machine that wrote it: it is not checked in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lightning_morse as lm

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.trajectory_coverage import bistable_field
from examples import digits, himmelblau, three_solutions

Fields = dict[str, str]


def _bits(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        head = f"{value.dtype} {value.shape}"
        return f"{head} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}"
    return repr(value)


def fields(result: lm.MorseAnalysis) -> Fields:
    """Everything an analysis says, except its wall times."""
    named: dict[str, Any] = {
        name: getattr(result, name)
        for name in (
            *("labels", "diverged", "exit_volumes", "mu", "confidence", "mean_loss", "samples"),
            *("sample_losses", "calibration", "loss_deviation", "claim"),
        )
    }
    named["edges"] = sorted(result.graph.edges)
    named["ladder.levels"], named["ladder.blocks"] = result.ladder.levels, result.ladder.blocks
    if result.reach is not None:
        named["reach.kinds"], named["reach.of"] = result.reach.kinds, result.reach.of
    for i, m in enumerate(result.morse_sets):
        for name in (
            "cells",
            "is_attractor",
            "resolved",
            "index",
            "center",
            "loss",
            "volume",
            "mu",
        ):
            named[f"sets[{i}].{name}"] = getattr(m, name)
    named["basin_volumes"] = result.basin_volumes
    return {name: _bits(value) for name, value in named.items()}


def _himmelblau() -> Fields:
    return fields(lm.analyze(himmelblau.himmelblau, [-5.0, -5.0], [5.0, 5.0]))


def _three_networks() -> Fields:
    with tempfile.TemporaryDirectory() as folder:
        result, solutions = three_solutions.main(["--out", folder, "--resolution", "64"])
    return {**fields(result), "solutions": _bits(solutions)}


def _wells() -> Fields:
    def wells(x: torch.Tensor) -> torch.Tensor:
        return ((x.square() - 1).square() + 0.1 * x).sum(dim=1)

    return fields(lm.analyze(wells, [-1.6] * 3, [1.6] * 3, n_samples=128, resolution=32))


def _bistable() -> Fields:
    rng = np.random.default_rng(0)
    step = lm.time_map(bistable_field, 0.4, 20)
    states = [rng.uniform([0.5, -1.5], [3.5, 1.8], (60, 2))]
    for _ in range(6):
        ideal = step(states[-1])
        states.append(ideal + 0.005 * rng.standard_normal(ideal.shape))
    runs = list(np.stack(states, axis=1))
    return fields(lm.analyze_trajectories(runs, lower=[0.5, -1.5], upper=[3.5, 1.8]))


def _digits() -> Fields:
    with tempfile.TemporaryDirectory() as folder:
        monitor = digits.main(["--epochs", "4", "--log-dir", folder, "--resolution", "64"])
    assert monitor.result is not None
    found = {f"last.{name}": value for name, value in fields(monitor.result).items()}
    for number, row in enumerate(monitor.history):
        for name, value in row.items():
            if name not in ("morse/seconds", "morse/overhead"):
                found[f"history[{number}].{name}"] = _bits(value)
    return found


CASES: dict[str, Callable[[], Fields]] = {
    "himmelblau": _himmelblau,
    "three_networks": _three_networks,
    "wells_3d": _wells,
    "bistable": _bistable,
    "digits": _digits,
}


def differences(before: Fields, after: Fields) -> list[str]:
    """One line for each field that differs."""
    names = sorted({*before, *after})
    return [
        f"{name}: {before.get(name, 'absent')} before, {after.get(name, 'absent')} now"
        for name in names
        if before.get(name) != after.get(name)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("lightning_morse").setLevel(logging.WARNING)
    found = {name: CASES[name]() for name in args.cases}
    if args.what == "write":
        args.file.write_text(json.dumps(found, indent=1))
        print({name: len(of) for name, of in found.items()})
        return 0
    before, worst = json.loads(args.file.read_text()), 0
    for name, of in found.items():
        lines = differences(before[name], of)
        print(f"{name}: {len(of)} fields, {len(lines)} differ", *lines[:20], sep="\n  ")
        worst = max(worst, len(lines))
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())

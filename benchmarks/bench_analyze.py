"""Time and memory of each stage of an analysis, side by side in one run.

    python benchmarks/bench_analyze.py [--repeats 3]
    python benchmarks/bench_analyze.py --against ../before [--samples 128 512 1024]

Himmelblau's function, 128 samples. Memory is the largest amount that NumPy held at once during the
analysis (tracemalloc, in a run of its own, since tracing slows it down). The last column compares
the finest grid with the middle one: a stage linear in the cells takes 4 times as long.

With ``--against``, another checkout is timed in turn with this one, in a process each: seconds of
one core without the loss (CPU time, the least of the repeats), samples used, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tracemalloc
from pathlib import Path

import lightning_morse as lm

RESOLUTIONS = (64, 128, 256)


def himmelblau(x):
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def analyze(resolution):
    return lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=resolution)


# Run in a process of its own, with one or the other checkout first on the path.
TIMED = """
import json, sys, time
import torch
import lightning_morse as lm

def himmelblau(x):
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2

torch.set_num_threads(1)
lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=64, resolution=32)  # imports and caches
found = {}
for n in map(int, sys.argv[1:]):
    start = time.process_time()
    result = lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=n)
    assert result.n_attractors == 4, "a time counts only if the answer is right"
    took = time.process_time() - start - result.seconds["loss"]
    found[n] = took, len(result.samples), float(result.undecided)
print(json.dumps(found))
"""


def timed(checkout, samples):
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *map(str, samples)],
        env=environment,
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(before, samples, repeats):
    """Print what both checkouts take; return the rows."""
    here = Path(__file__).resolve().parents[1]
    runs = [(timed(before, samples), timed(here, samples)) for _ in range(repeats)]
    print(f"{'samples':>8}{'before [s]':>12}{'used':>6}{'undecided':>11}", end="")
    print(f"{'now [s]':>10}{'used':>6}{'undecided':>11}{'ratio':>8}")
    rows = []
    for n in map(str, samples):
        old, new = (min(run[k][n][0] for run in runs) for k in (0, 1))
        rows.append((int(n), old, new))
        (_, used, open_), (_, used_now, open_now) = runs[0][0][n], runs[0][1][n]
        print(f"{n:>8}{old:>12.2f}{used:>6}{open_:>11.3f}", end="")
        print(f"{new:>10.2f}{used_now:>6}{open_now:>11.3f}{new / old:>8.2f}")
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--samples", type=int, nargs="+", default=[128, 512, 1024])
    arguments = parser.parse_args(argv)
    repeats = arguments.repeats
    if arguments.against:
        return compare(arguments.against.resolve(), arguments.samples, repeats)

    analyze(RESOLUTIONS[0])  # imports and caches
    seconds = {r: [] for r in RESOLUTIONS}
    for _ in range(repeats):
        for resolution in RESOLUTIONS:
            result = analyze(resolution)
            assert result.n_attractors == 4, "a time counts only if the answer is right"
            seconds[resolution].append(result.seconds)
    peak = {}
    for resolution in RESOLUTIONS:
        tracemalloc.start()
        analyze(resolution)
        peak[resolution] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    stages = list(seconds[RESOLUTIONS[0]][0])
    median = {
        (s, r): statistics.median(run[s] for run in seconds[r]) for s in stages for r in RESOLUTIONS
    }
    print(f"{'stage':<12}" + "".join(f"{r:>6}^2 [s]" for r in RESOLUTIONS) + "   256/128")
    for stage in stages:
        row = [median[stage, r] for r in RESOLUTIONS]
        print(f"{stage:<12}" + "".join(f"{t:>12.4f}" for t in row) + f"{row[2] / row[1]:>10.1f}")
    total = [sum(median[s, r] for s in stages if s != "loss") for r in RESOLUTIONS]
    print(f"{'all but loss':<12}" + "".join(f"{t:>12.4f}" for t in total))
    ladder = [median["ladder", r] for r in RESOLUTIONS]
    share = [up / (t - up) for up, t in zip(ladder, total, strict=True)]
    print(f"{'ladder/rest':<12}" + "".join(f"{s:>12.2f}" for s in share))
    print(f"{'peak MiB':<12}" + "".join(f"{peak[r] / 2**20:>12.1f}" for r in RESOLUTIONS))


if __name__ == "__main__":
    main()

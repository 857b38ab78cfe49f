"""Time and memory of each stage of an analysis, side by side in one run.

    python benchmarks/bench_analyze.py [--repeats 3]

Himmelblau's function, 128 samples. Memory is the largest amount that NumPy held at once during the
analysis (tracemalloc, in a run of its own, since tracing slows it down). The last column compares
the finest grid with the middle one: a stage linear in the cells takes 4 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import tracemalloc

import lightning_morse as lm

RESOLUTIONS = (64, 128, 256)


def himmelblau(x):
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def analyze(resolution):
    return lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=resolution)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats

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

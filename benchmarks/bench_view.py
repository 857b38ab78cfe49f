"""Cost of the view: time per step in a browser, time to list runs, bytes of an answer and a report.

    python -m benchmarks.bench_view                      # two minutes; needs Chromium
    python -m benchmarks.bench_view --steps 20 --resolution 64
    python -m benchmarks.bench_view --only-list          # no browser

A real TensorBoard shows a run of 200 analyses of 256 x 256 cells in a headless browser. Steps are
switched at the slider; a step counts as shown once its picture has been painted. Then another
TensorBoard lists 50 runs of 20 analyses of 128 x 128 cells. The aims: less than 200 ms per switch,
less than 150 kB per answer, and less than 2 MB for a report of 30 analyses of 128 x 128 cells.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lightning_morse as lm
from examples.himmelblau import himmelblau
from lightning_morse.view.record import decode, encode
from lightning_morse.view.report import report
from lightning_morse.view.runs import Reading, Run
from tests.browser import Browser
from tests.tensorboard_plugin.test_plugin import FRAME, Board, write_events

SWITCH = """new Promise((done) => {
  const page = document.querySelector('iframe').contentDocument;
  const slider = page.querySelector('.steps input'), root = page.querySelector('#view');
  const start = performance.now();
  new MutationObserver((_, self) => {
    self.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
  }).observe(root, {attributes: true, attributeFilter: ['data-shown']});
  slider.value = %d;
  slider.dispatchEvent(new Event('input'));
})"""


def make_texts(steps: int, resolution: int) -> list[str]:
    """Records of a real analysis, with a trajectory that grows from step to step."""
    result = lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=resolution)
    turn = np.linspace(0, 3, steps + 1)
    path = np.stack([3 * np.cos(turn), 3 * np.sin(turn)], axis=1)
    return [
        encode(result, step=k, epoch=k, trajectory=path[: k + 1], current=path[k + 1])
        for k in range(steps)
    ]


def time_to_list(runs: int, steps: int, resolution: int, requests: int = 7) -> dict[str, float]:
    """Milliseconds to list runs: the median of repeated requests, once all records are loaded."""
    texts = dict(enumerate(make_texts(steps, resolution)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k in range(runs):
            write_events(folder / "logs" / f"run{k:03d}", texts)
        (folder / "board").mkdir()
        with Board(folder / "logs", folder / "board") as board:
            board.until(
                lambda found: len(found) == runs and all(len(r["steps"]) == steps for r in found),
                seconds=300,
            )
            times = []
            for _ in range(requests):
                start = time.perf_counter()
                board.get("/data/plugin/morse/runs")
                times.append(1000 * (time.perf_counter() - start))
    return {
        "list_runs": runs,
        "list_records": runs * steps,
        "list_ms_median": round(statistics.median(times), 1),
        "list_ms_worst": round(max(times), 1),
    }


def time_to_switch(steps: int, resolution: int, switches: int) -> dict[str, float]:
    """Milliseconds to switch to another step of a long run, in a browser."""
    texts = make_texts(steps, resolution)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "logs" / "run", dict(enumerate(texts)))
        (folder / "board").mkdir()
        with Board(folder / "logs", folder / "board") as board, Browser(1280, 800) as page:
            board.until(lambda runs: runs and len(runs[0]["steps"]) == steps)
            page.go(f"{board.address}/#morse")
            page.wait(f"{FRAME}.querySelector('#view').dataset.shown || null", 120)
            order = np.random.default_rng(0).permutation(steps - 1)[:switches]
            times = [page.run(SWITCH % k) for k in order]
    return {
        "steps": steps,
        "cells": resolution**2,
        "switch_ms_median": round(statistics.median(times), 1),
        "switch_ms_worst": round(max(times), 1),
        "answer_kB": round(max(map(len, texts)) / 1000, 1),
    }


def size_of_report(resolution: int) -> float:
    """Megabytes of a report of 30 analyses."""
    few = [decode(text) for text in make_texts(30, resolution)]
    readings = tuple(Reading(Path(str(r.step)), r.step, r, None) for r in few)
    return round(len(report([Run("run", readings, {})]).encode()) / 1e6, 2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--switches", type=int, default=40)
    parser.add_argument("--runs", type=int, default=50, help="runs to list")
    parser.add_argument("--records", type=int, default=20, help="records per run to list")
    parser.add_argument("--only-list", action="store_true", help="measure the list of runs only")
    args = parser.parse_args(argv)

    few = min(128, args.resolution)
    found: dict[str, Any] = dict(time_to_list(args.runs, args.records, few))
    if not args.only_list:
        found |= time_to_switch(args.steps, args.resolution, args.switches)
        found["report_of_30_MB"] = size_of_report(few)
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()

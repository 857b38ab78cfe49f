"""What the view takes: time from step to step in a browser, and bytes of an answer and a report.

    python -m benchmarks.bench_view                      # a minute; needs Chromium
    python -m benchmarks.bench_view --steps 20 --resolution 64

A run of 200 analyses of 256 x 256 cells is shown by a real TensorBoard in a headless browser. A
step is switched at the slider; it counts as shown when its picture has been painted. The aims:
less than 200 ms a switch, less than 150 kB an answer; and less than 2 MB for a report of 30
analyses of 128 x 128 cells.
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
    """Records of a real analysis with a course of training that grows."""
    result = lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=resolution)
    turn = np.linspace(0, 3, steps + 1)
    path = np.stack([3 * np.cos(turn), 3 * np.sin(turn)], axis=1)
    return [
        encode(result, step=k, epoch=k, trajectory=path[: k + 1], current=path[k + 1])
        for k in range(steps)
    ]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--switches", type=int, default=40)
    args = parser.parse_args(argv)

    texts = make_texts(args.steps, args.resolution)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "logs" / "run", dict(enumerate(texts)))
        (folder / "board").mkdir()
        with Board(folder / "logs", folder / "board") as board, Browser(1280, 800) as page:
            board.until(lambda runs: runs and len(runs[0]["steps"]) == args.steps)
            start = time.perf_counter()
            board.get("/data/plugin/morse/runs")
            listing = time.perf_counter() - start
            page.go(f"{board.address}/#morse")
            page.wait(f"{FRAME}.querySelector('#view').dataset.shown || null", 120)
            order = np.random.default_rng(0).permutation(args.steps - 1)[: args.switches]
            times = [page.run(SWITCH % k) for k in order]
    few = [decode(text) for text in make_texts(30, min(128, args.resolution))]
    readings = tuple(Reading(Path(str(r.step)), r.step, r, None) for r in few)
    found = {
        "steps": args.steps,
        "cells": args.resolution**2,
        "switch_ms_median": round(statistics.median(times), 1),
        "switch_ms_worst": round(max(times), 1),
        "list_of_runs_ms": round(1000 * listing, 1),
        "answer_kB": round(max(map(len, texts)) / 1000, 1),
        "report_of_30_MB": round(len(report([Run("run", readings, {})]).encode()) / 1e6, 2),
    }
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()

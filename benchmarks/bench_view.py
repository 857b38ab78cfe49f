"""Cost of the view: time per step in a browser, time to list runs, bytes of an answer and a report.

    python -m benchmarks.bench_view                      # some minutes; needs Chromium
    python -m benchmarks.bench_view --steps 20 --resolution 64
    python -m benchmarks.bench_view --only-list          # no browser

A real TensorBoard shows a run of 200 analyses of 256 x 256 cells in a headless browser. Steps are
switched at the slider; a step counts as shown once its picture has been painted. Another
TensorBoard lists 300 runs of 50 analyses of 128 x 128 cells, and the commands read the same as
files. The aims: less than 200 ms per switch, less than 150 kB per answer, less than 2 MB for a
report of 30 analyses of 128 x 128 cells; a first list in 5 s and further ones in 1 s, in less than
300 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import lightning_morse as lm
from examples.himmelblau import himmelblau
from lightning_morse.view.encoding import encode
from lightning_morse.view.report import report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.tensorboard_plugin.test_plugin import FRAME, Board, write_events

# What TensorBoard still does once it knows all runs must not be counted.
SETTLING_SECONDS = 10.0
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


def peak_of(process: int) -> float:
    """Most memory a process has taken so far, in megabytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0  # it has just ended


def seconds_of(board: Board) -> float:
    """Time of one list of runs."""
    start = time.perf_counter()
    board.get("/data/plugin/morse/runs")
    return time.perf_counter() - start


def time_to_list(texts: dict[int, str], runs: int, folder: Path) -> dict[str, float]:
    """Seconds to list runs by a server that has loaded them: at first, and then.

    TensorBoard itself holds the records; its memory is that of the Python process, before the first
    list and after the last.
    """
    for k in range(runs):
        write_events(folder / "logs" / f"run{k:03d}", texts)
    (folder / "board").mkdir()
    with Board(folder / "logs", folder / "board") as board:
        loaded = 0
        while loaded < runs:  # by another route, so that the first list is the first
            time.sleep(1)
            try:
                known = json.loads(board.get("/data/plugin/scalars/tags")[2])
            except (OSError, ValueError):
                continue
            loaded = len(known)
        time.sleep(SETTLING_SECONDS)
        before = peak_of(board.process.pid)
        cold = seconds_of(board)
        warm = [seconds_of(board) for _ in range(7)]
        start = time.perf_counter()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda _: seconds_of(board), range(10)))
        together = time.perf_counter() - start
        listed = json.loads(board.get("/data/plugin/morse/runs")[2])
        assert len(listed) == runs
        assert all(len(run["steps"]) == len(texts) for run in listed)
        assert not any("error" in step for run in listed for step in run["steps"])
        return {
            "list_s_cold": round(cold, 2),
            "list_s_warm": round(statistics.median(warm), 2),
            "list_s_ten_at_once": round(together, 2),
            "list_MB_before": round(before),
            "list_MB_after": round(peak_of(board.process.pid)),
        }


def cost_of_commands(texts: dict[int, str], runs: int, folder: Path) -> dict[str, float]:
    """Seconds and megabytes of the commands on files."""
    for k in range(runs):
        (folder / f"run{k:03d}" / "morse").mkdir(parents=True)
        for step, text in texts.items():
            path = folder / f"run{k:03d}" / "morse" / f"step-{step:07d}.view.json"
            path.write_text(text)
    found: dict[str, float] = {}
    for name in ("compare", "report"):
        options = ["-o", str(folder / "r.html")] if name == "report" else []
        command = [sys.executable, "-m", "lightning_morse.cli", name, str(folder), *options]
        start = time.perf_counter()
        most = 0.0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, peak_of(process.pid))
                time.sleep(0.02)
        assert process.returncode == 0
        found[f"{name}_s"] = round(time.perf_counter() - start, 1)
        found[f"{name}_MB"] = round(most)
    return found


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
    with tempfile.TemporaryDirectory() as name:
        for step, text in enumerate(make_texts(30, resolution)):
            (Path(name) / f"step-{step}.view.json").write_text(text)
        return round(len(report(read_runs(name)).encode()) / 1e6, 2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--switches", type=int, default=40)
    parser.add_argument("--runs", type=int, default=300, help="runs to list")
    parser.add_argument("--records", type=int, default=50, help="records per run to list")
    parser.add_argument("--only-list", action="store_true", help="measure the list of runs only")
    args = parser.parse_args(argv)

    few = min(128, args.resolution)
    texts = dict(enumerate(make_texts(args.records, few)))
    found: dict[str, Any] = {"list_runs": args.runs, "list_records": args.runs * args.records}
    with tempfile.TemporaryDirectory() as name:
        found |= time_to_list(texts, args.runs, Path(name))
    with tempfile.TemporaryDirectory() as name:
        found |= cost_of_commands(texts, args.runs, Path(name))
    if not args.only_list:
        found |= time_to_switch(args.steps, args.resolution, args.switches)
        found["report_of_30_MB"] = size_of_report(few)
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()

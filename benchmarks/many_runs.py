"""Time until a sweep is seen: 200 runs of 200 analyses, in the tab and in the index of a report.

    python -m benchmarks.many_runs
    python -m benchmarks.many_runs --runs 20 --records 20

The records are synthetic: a small analysis, with a loss and a floor of its own for each. A real
TensorBoard has loaded them before the tab is opened; the tab counts from the start of its frame
until the frame in which all rows of the table and the last analysis of the first run are there,
once for the first list of the server and then for later ones. The report is written by
``write_report`` as an index and a page for each run, and the index counts until all rows are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_morse.view.encoding import encode
from lightning_morse.view.report import write_report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.tensorboard_plugin.test_plugin import FRAME, Board, write_events

OPENED = 5
# What TensorBoard still does once it knows all runs must not be counted.
SETTLING_SECONDS = 10.0
OF_TAB = FRAME.replace("')", "')?")  # there may be no frame yet
ROWS = "querySelectorAll('.runs tbody tr').length"
# Milliseconds from the start of the document until rows are there, and the view, if there is one.
SEEN = """(async () => {
  const frame = () => new Promise((r) => requestAnimationFrame(r));
  const look = (page) => {
    const view = page?.querySelector('#view');
    return page?.querySelector('.runs tbody tr') && (!view || view.dataset.shown);
  };
  while (!look(%s)) await frame();
  await frame();
  return %s.defaultView.performance.now();
})()"""


def texts_of(run: int, records: int) -> Iterator[tuple[int, str]]:
    """Records of a run whose loss falls to a floor of its own."""
    rng = np.random.default_rng(run)
    raw = json.loads(encode(drawn.plane(8), epoch=0, current=[-1.5, -0.8]))
    floor, rate = rng.uniform(0.01, 0.5), rng.uniform(5, 60)
    for k in range(records):
        loss = floor + 2.5 * np.exp(-k / rate) + 0.02 * abs(rng.standard_normal())
        lowest = floor * (1 + 0.1 * rng.random())
        raw |= {"step": 100 * k, "epoch": k}
        raw["facts"] |= {"loss_now": loss, "basin_floor": lowest}
        raw["summary"] |= {"step": 100 * k, "epoch": k, "loss": loss, "floor": lowest}
        yield 100 * k, json.dumps(raw, separators=(",", ":"))


def time_of_tab(runs: int, records: int) -> dict[str, float]:
    """Milliseconds until the tab shows all runs, at first and later."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k in range(runs):
            write_events(folder / "logs" / f"run{k:03d}", dict(texts_of(k, records)))
        (folder / "board").mkdir()
        with Board(folder / "logs", folder / "board") as board:
            wait_until_loaded(board, runs)
            times = []
            with Browser(1280, 800) as page:
                for _ in range(OPENED):
                    page.go("about:blank")
                    page.wait("location.href === 'about:blank'")
                    page.go(f"{board.address}/#morse")
                    times.append(page.run(SEEN % ((OF_TAB,) * 2)))
                    assert page.run(f"{FRAME}.{ROWS}") == runs
                assert page.complaints == [], page.complaints
            answer = board.get("/data/plugin/morse/courses")[2]
    return {
        "tab_first_ms": round(times[0]),
        "tab_ms": round(statistics.median(times[1:])),
        "courses_MB": round(len(answer) / 1e6, 2),
    }


def wait_until_loaded(board: Board, runs: int) -> None:
    """Wait for TensorBoard itself, by another route than ours."""
    known = 0
    while known < runs:
        time.sleep(1)
        try:
            known = len(json.loads(board.get("/data/plugin/scalars/tags")[2]))
        except (OSError, ValueError):
            continue
    time.sleep(SETTLING_SECONDS)


def time_of_index(runs: int, records: int) -> dict[str, float]:
    """Milliseconds until the index of a report shows all runs, and what writing it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k in range(runs):
            home = folder / "runs" / f"run{k:03d}" / "morse"
            home.mkdir(parents=True)
            for step, text in texts_of(k, records):
                (home / f"step-{step:07d}.view.json").write_text(text)
        index, start = folder / "report.html", time.perf_counter()
        one_run = sum(file.stat().st_size for file in home.iterdir())
        written = write_report(read_runs(folder / "runs"), index, max_bytes=2 * one_run)
        seconds = time.perf_counter() - start
        assert (written.records, written.pages) == (runs * records, runs)
        times = []
        with Browser(1280, 800) as page:
            for _ in range(OPENED):
                page.go("about:blank")
                page.wait("location.href === 'about:blank'")
                page.go(index.as_uri())
                times.append(page.run(SEEN % (("document",) * 2)))
                assert page.run(f"document.{ROWS}") == runs
            assert page.complaints == [], page.complaints
        size = index.stat().st_size
    return {
        "index_first_ms": round(times[0]),
        "index_ms": round(statistics.median(times[1:])),
        "index_MB": round(size / 1e6, 2),
        "report_written_s": round(seconds, 1),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="more than 3, whose table is folded")
    parser.add_argument("--records", type=int, default=200, help="analyses of each run")
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"runs": args.runs, "records": args.records}
    found |= {"load_of_the_machine": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    found |= time_of_index(args.runs, args.records)
    found |= time_of_tab(args.runs, args.records)
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()

"""What is seen in a run of ten seconds, with no argument at all.

    python benchmarks/short_runs.py [--runs mlp_sgd ...] [--seconds 10] [--seeds 0]

The trainings of `ordinary_runs.py`, each in a process of its own and for as many epochs as take so
long without the callback, which is found out before; then `MorseMonitor()` and nothing else. It
keeps to its budget by the clock, so another machine makes other analyses.

One row a run: epochs, seconds without (as its epochs would take) and with the callback, for each
analysis its epoch, the number of samples and what is said of the weights (the number of the
attractor whose basin they are in, -1 undecided, -2 leaving), whether the last one is of the last
weights, and how many pictures of basins TensorBoard has in the end.
"""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).parent))
from bench_monitor import Ends
from ordinary_runs import RUNS, train
from real_runs import interval

import lightning_morse as lm
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.conley.reach import UNDECIDED

# Epochs by which their length is told.
_TRIED = 8
_LONGEST_SECONDS = 300.0

Row = dict[str, Any]


@contextmanager
def evaluations_counted() -> Iterator[list[int]]:
    """How many samples each analysis meanwhile has that is made, or fails."""
    counts: list[int] = []
    note = Schedule.analysed

    signature = inspect.signature(note)

    def noted(*given: Any, **named: Any) -> None:
        told = signature.bind(*given, **named).arguments
        if told["outcome"] != "out of time":
            counts.append(told["meter"].n_evaluations)
        note(*given, **named)

    with mock.patch.object(Schedule, "analysed", noted):
        yield counts


def trained(name: str, seed: int, seconds: float) -> Row:
    """Train in this process, without the callback and then with it."""
    with tempfile.TemporaryDirectory() as folder:
        before = Ends()
        train(name, seed, _TRIED, before, folder)
        epochs = max(4, round(seconds / before.an_epoch))
        monitor, logger = lm.MorseMonitor(), TensorBoardLogger(folder)
        start = time.perf_counter()
        with evaluations_counted() as counts:
            train(name, seed, epochs, monitor, folder, logger)
        took = time.perf_counter() - start
        n_pictures = pictures(logger.log_dir)
    analyses = [
        (row["epoch"] + 1, n, int(row["morse/basin_current"]))
        for row, n in zip(monitor.history, counts, strict=True)
    ]
    return {
        "run": name,
        "seed": seed,
        "epochs": epochs,
        "without": epochs * before.an_epoch,
        "with": took,
        "analyses": analyses,
        "pictures": n_pictures,
        "sentence": monitor.sentence,
    }


def pictures(folder: str) -> int:
    """How many pictures of basins a logger has written."""
    events = EventAccumulator(folder, size_guidance={"images": 0}).Reload()
    shown = "morse/basins" in events.Tags()["images"]
    return len(events.Images("morse/basins")) if shown else 0


def in_a_process(name: str, seed: int, seconds: float) -> Row:
    """The same in a process of its own, as the first thing it does."""
    order = [sys.executable, __file__, "--child", "--runs", name]
    order += ["--seeds", str(seed), "--seconds", str(seconds)]
    limit = _LONGEST_SECONDS + 10 * seconds
    done = subprocess.run(order, capture_output=True, text=True, check=True, timeout=limit)
    return json.loads(done.stdout.splitlines()[-1])


def is_last(row: Row) -> bool:
    """Whether the last analysis is of the last weights."""
    return bool(row["analyses"]) and row["analyses"][-1][0] == row["epochs"]


def is_answered(row: Row) -> bool:
    """Whether that analysis says where the last weights are."""
    return is_last(row) and row["analyses"][-1][2] != UNDECIDED


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    said = ", ".join(f"{epoch}: {label} ({n})" for epoch, n, label in row["analyses"])
    cells = row["run"], row["seed"], row["epochs"], f"{row['without']:.1f}, {row['with']:.1f}"
    cells += said or "none", "yes" if is_last(row) else "no", row["pictures"]
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(trained(given.runs[0], given.seeds[0], given.seconds)))
        return []
    columns = "run", "seed", "epochs", "seconds without, with", "epoch: label (samples)"
    print(f"| {' | '.join(columns)} | last weights | pictures |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in given.runs:
        for seed in given.seeds:
            rows.append(in_a_process(name, seed, given.seconds))
            print(line(rows[-1]), flush=True)
    print(f"\nanalysed at the end: {interval(sum(map(is_last, rows)), len(rows))}")
    print(f"answered at the end: {interval(sum(map(is_answered, rows)), len(rows))}")
    seen = sum(row["pictures"] > 0 for row in rows)
    print(f"with a picture: {interval(seen, len(rows))}")
    return rows


if __name__ == "__main__":
    main()

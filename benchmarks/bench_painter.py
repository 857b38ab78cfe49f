"""What a process that draws takes of the training beside it.

    python -m benchmarks.bench_painter             # about six minutes
    python -m benchmarks.bench_painter --epochs 8

A perceptron or a convolutional network trains while another process draws, in every second epoch;
in the others that one is stopped. Printed are the median ratio of the two kinds of epochs, its
standard error, and what the other process had of a core meanwhile. Three ways of stepping back are
compared: niceness 19 in a session of its own, niceness 19, and what the process that draws does.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch

from benchmarks.bench_monitor import median_and_error, train
from lightning_morse.callbacks._worker import STEP_BACK

_DRAWS = """
from io import BytesIO
from matplotlib.figure import Figure
while True:
    figure = Figure()
    figure.add_subplot(title="$1$").contourf([[i * j for i in range(60)] for j in range(60)])
    figure.savefig(BytesIO(), format="png")
"""
WAYS = {
    "own session": "import os; os.setsid(); os.nice(19)",
    "niceness": "import os; os.nice(19)",
    "idle": STEP_BACK,
}
# Until the other process has imported what it needs.
_START_SECONDS = 3.0
# Where another process has half of the time, an epoch takes minutes.
LONGEST_SECONDS = 60.0


class Turns(pl.Callback):
    """Lets a process go on in every second epoch, and times all of them, for a minute at most."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.until = time.perf_counter() + LONGEST_SECONDS
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.kill(self.process, signal.SIGCONT if trainer.current_epoch % 2 else signal.SIGSTOP)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        trainer.should_stop = time.perf_counter() > self.until and len(self.seconds) % 2 == 0


@contextmanager
def drawing(way: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that draws without end."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{WAYS[way]}\n{_DRAWS}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        time.sleep(_START_SECONDS)
        os.kill(process.pid, signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def processor_time(pid: int) -> float:
    """Processor time of a process so far, seconds (Linux)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(net: str, n_threads: int, way: str, epochs: int) -> str:
    """One line of the table."""
    torch.set_num_threads(n_threads)
    with drawing(way) as process:
        turns, before = Turns(process.pid), processor_time(process.pid)
        train(net, epochs, turns, batch_size=32)
        used = processor_time(process.pid) - before
    busy, idle = turns.seconds[3::2], turns.seconds[2::2]
    longer, error = median_and_error([math.log(b / i) for b, i in zip(busy, idle, strict=True)])
    share = used / sum(turns.seconds[1::2])
    return (
        f"{net}, {n_threads} threads, {way}: epochs {math.expm1(longer):+.1%} +- {error:.1%}; "
        f"it had {share:.2f} of a core"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="of each run, an even number")
    args = parser.parse_args(argv)
    cores = os.cpu_count() or 1
    for net in ("mlp", "cnn"):
        for n_threads in dict.fromkeys((cores, max(1, cores - 1))):
            for way in WAYS:
                print(measured(net, n_threads, way, 2 * (args.epochs // 2)), flush=True)


if __name__ == "__main__":
    main()

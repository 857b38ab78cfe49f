"""What is kept between analyses is bounded by bytes, and a line says so."""

from __future__ import annotations

import gc
import logging
import resource
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_morse import MorseMonitor
from lightning_morse.callbacks._figures import painted
from lightning_morse.monitoring import memory, run_record
from lightning_morse.monitoring.memory import (
    MOST_BYTES,
    Plan,
    bytes_of,
    free_memory,
    memory_limit,
)
from tests.callback_models import Net, fit, monitor, stub_analysis
from tests.test_benchmarks import load

ROOT = Path(__file__).parents[2]
N_WEIGHTS = sum(p.numel() for p in Net().parameters())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(5, 5), ("500MB", 5 * 10**8), (" 2 gb ", 2 * 10**9), ("1.5GiB", 3 * 2**29), ("3k", 3000)],
)
def test_sizes_are_read(size, expected):
    assert bytes_of(size) == expected


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "", "0MB", "much", "5 MBit", "1e9"])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="max_memory must be a positive number of bytes"):
        MorseMonitor(max_memory=size)


# ------------------------------------------------------------------------- what is free


def test_free_memory_is_no_more_than_there_is():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < free_memory() <= total


@pytest.mark.slow
def test_a_limit_on_the_address_space_counts():
    program = (
        "import resource, lightning_morse.monitoring.memory as m;"
        "most = m._free_address_space(); assert most is None;"
        "size = 1024 * int(open('/proc/self/status').read().split('VmSize:')[1].split()[0]);"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 10**8, size + 10**8));"
        "print(m.free_memory())"
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        pytest.skip("there is a limit already")
    order = [sys.executable, "-c", program]
    done = subprocess.run(order, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert 0.9e8 < int(done.stdout) < 1.1e8


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_are_honoured(version, tmp_path, monkeypatch):
    group = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)[2].lstrip("/")
    line = f"5:cpu,memory:/{group}" if version == 1 else f"0::/{group}"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda p: line if p == Path("/proc/self/cgroup") else read_text(p)
    )
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", tmp_path)
    root = tmp_path / "memory" if version == 1 else tmp_path
    limit, used, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (root / group).mkdir(parents=True, exist_ok=True)
    assert memory._free_in_control_groups() is None
    (root / limit).write_text("1000\n")
    (root / used).write_text("800\n")
    (root / "memory.stat").write_text(f"anon 5\n{cache} 50\n")
    assert memory._free_in_control_groups() == 250
    (root / limit).write_text("max\n")
    assert memory._free_in_control_groups() is None


def test_the_default_is_a_tenth_of_what_is_free():
    assert memory_limit(None, 10**9) == 10**8
    assert memory_limit(None, 10**12) == memory_limit(None, None) == MOST_BYTES
    assert memory_limit("7GB", 10) == 7 * 10**9


# ------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "float16"])
def test_a_plan_fits_and_no_better_one_does(name, dim):
    asked = Plan(32, getattr(torch, name))
    before = None
    for limit in range(400, 0, -1):
        plan = asked.within(limit, dim)
        assert plan.bytes_per_weight(dim) <= limit
        assert plan.max_snapshots >= 3 or plan == Plan(0, asked.dtype, 0)
        if before is not None and before.dtype == plan.dtype and before.slices == plan.slices:
            assert plan.max_snapshots <= before.max_snapshots
        # Half precision and no record only where nothing else fits.
        if plan.dtype != asked.dtype or not plan.max_snapshots:
            assert 4 * asked.dtype.itemsize > limit
        before = plan
    assert asked.within(1000, dim) == asked


def test_few_that_were_asked_for_are_not_made_fewer_for_no_reason():
    assert Plan(4, torch.float32).within(57, dim=2).slices == 3
    assert Plan(4, torch.float32).within(55, dim=2) == Plan(4, torch.float32, 2)


# ------------------------------------------------------------------------- a run


@pytest.fixture
def said(caplog, monkeypatch):
    stub_analysis(monkeypatch)
    caplog.set_level(logging.WARNING, "lightning_morse")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]


def test_nothing_is_said_where_all_fits(said, tmp_path):
    watch = monitor()
    fit(tmp_path, watch)
    assert not said()
    assert watch._run.plan == Plan(32, torch.float32)


def test_a_run_keeps_what_fits_and_says_so_once(said, tmp_path):
    watch = monitor(max_memory=50 * N_WEIGHTS)
    fit(tmp_path, watch, max_epochs=4)
    assert said() == [
        "MorseMonitor: 8 snapshots of the weights are kept in float32, and 1 of the last slices "
        f"to recognise attractors by: max_memory is {memory.in_bytes(50 * N_WEIGHTS)}, and there "
        f"are {N_WEIGHTS} weights"
    ]
    kept = watch._run
    slices = len(kept.tracker._pictures) * 3 * 4 * N_WEIGHTS
    assert kept.trajectory.n_bytes + slices <= 50 * N_WEIGHTS
    assert len(kept.tracker._pictures) == 1
    assert [row["morse/failed"] for row in watch.history] == [0] * 4
    assert watch._account.view.axis_labels[0].startswith("PC 1")


def test_half_precision_is_the_last_resort(said, tmp_path):
    watch = monitor(max_memory=10 * N_WEIGHTS)
    fit(tmp_path, watch)
    assert "4 snapshots of the weights are kept in bfloat16, and no earlier slice" in said()[0]
    assert watch._run.trajectory.snapshots().dtype == torch.bfloat16
    assert [row["morse/failed"] for row in watch.history] == [0, 0]


@pytest.mark.parametrize("directions", ["pca", "random"])
def test_without_room_for_a_record_directions_are_random(directions, said, tmp_path):
    watch = monitor(max_memory=7 * N_WEIGHTS, directions=directions)
    fit(tmp_path, watch)
    (line,) = said()
    assert "no snapshots are kept and directions are random" in line
    assert watch._run.trajectory.n_bytes == 0
    assert [row["morse/failed"] for row in watch.history] == [0, 0]
    assert watch._account.view.axis_labels[0].startswith("random direction 1")
    assert watch._account.view.trajectory.shape == (0, 2)
    assert watch.history[-1]["morse/residual"] == 0
    assert set(watch.figures()) == {"basins", "graph", "merge", "timeline"}


def test_a_resumed_run_keeps_what_it_kept(said, tmp_path, monkeypatch):
    monkeypatch.setattr(run_record, "free_memory", lambda: 10 * 50 * N_WEIGHTS)
    saver = ModelCheckpoint(tmp_path, save_last=True)
    first = monitor()
    fit(tmp_path / "a", first, saver, enable_checkpointing=True)
    assert first._run.plan == Plan(8, torch.float32, 1)
    for free, expected in ((10**3, Plan(8, torch.float32, 1)), (10, Plan(0, torch.float32, 0))):
        monkeypatch.setattr(run_record, "free_memory", lambda free=free: free * N_WEIGHTS)
        again = monitor()
        path = str(tmp_path / "last.ckpt")
        fit(tmp_path / str(free), again, max_epochs=3, ckpt_path=path)
        assert again._run.plan == expected
        assert len(again.history) == 3


# ------------------------------------------------------------------------- many weights


@pytest.mark.slow
def test_a_hundred_million_weights_fit_into_what_is_promised():
    """The weights, their gradient, ``max_memory`` and ``dim + 4`` copies, and half a gigabyte."""
    bench = load("bench_memory")
    n, kept = 10**8, 2 * 10**9
    room = (2 + bench.DIM + 4) * 4 * n + kept + 5 * 10**8
    found = bench.in_a_process(n, str(kept), room, epochs=2)
    assert found["failed"] == [0.0, 0.0]
    assert (found["snapshots"], found["dtype"], found["slices"]) == (4, "float32", 0)
    assert "4 snapshots of the weights are kept in float32" in found["said"]
    assert found["explained"] > 0.5  # principal directions, not random ones
    assert found["peak"] < room


# ------------------------------------------------------------------------- many analyses


def alive():
    """What Python and NumPy have allocated and not given back."""
    gc.collect()
    return tracemalloc.take_snapshot()


def growth(before, after):
    changes = after.compare_to(before, "lineno")
    return sum(change.size_diff for change in changes), "\n".join(map(str, changes[:10]))


class Counts(Callback):
    """Looks at what is alive after some analyses."""

    def __init__(self, watch, looks):
        self.watch, self.looks, self.found = watch, looks, []

    def on_train_batch_end(self, *args):
        if len(self.watch.history) in self.looks:
            self.found.append(alive())


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_what_is_alive_does_not_grow_with_the_number_of_analyses(tmp_path):
    """But for the history, whose rows take 3 kB; records and pictures are given away.

    What is lost is lost every time; caches of classes fill now and then, by some 10 kB. So the
    analyses that left least behind tell.
    """
    watch = monitor(every_n_steps=1, n_samples=16, resolution=8, max_snapshots=4, probe_batches=1)
    counts = Counts(watch, (8, 11, 14))
    logger = TensorBoardLogger(tmp_path, name="", version=0)
    fit(tmp_path, watch, counts, max_steps=14, max_epochs=-1, logger=logger)
    assert [row["morse/failed"] for row in watch.history] == [0] * 14
    grown, where = min(growth(*pair) for pair in pairwise(counts.found))
    assert grown < 3 * 4_000, where


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_what_is_alive_does_not_grow_with_the_number_of_pictures(tmp_path, no_pictures):
    """What is lost is lost every time; caches of matplotlib fill and empty by up to 10 kB.

    A figure kept alive is hundreds of kB, so the picture that left least behind tells.
    """
    watch = monitor(n_samples=16, resolution=8)
    fit(tmp_path, watch, max_epochs=1)
    found = []
    for _ in range(5):
        dict(painted(watch.result, watch._account.view, watch.history))
        found.append(alive())
    grown, where = min(growth(*pair) for pair in pairwise(found))
    assert grown < 5_000, where

"""The limit on threads belongs to the process: whoever is last restores what there was."""

import math
import sys
import threading
import time
import types

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lightning_morse import stopwatch
from lightning_morse.stopwatch import Stopwatch, one_thread


def threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(limits=2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("this BLAS has one thread only")
        yield


def test_nested_blocks():
    with one_thread():
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {2}


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("first_out", ["first", "second"])
def test_blocks_that_overlap_in_two_threads(first_out, bound, monkeypatch):
    """Whichever ends first; where any thread may change the pools, and where one may."""
    pool = Pool(threading.current_thread() if bound else None)
    monkeypatch.setattr(stopwatch, "_one_thread", stopwatch._OneThread())
    monkeypatch.setattr(stopwatch, "ThreadpoolController", lambda: pool)
    monkeypatch.setattr(stopwatch, "_ASKED_BY_ONE", bound)
    inside, out = threading.Event(), threading.Event()

    def second():
        with one_thread():
            inside.set()
            out.wait()

    thread = threading.Thread(target=second)
    with one_thread():
        thread.start()
        inside.wait()
        if first_out == "second":
            out.set()
            thread.join()
            assert pool.num_threads == 1
    if first_out == "first":
        assert pool.num_threads == (2 if bound else 1)  # the other is still at work
        out.set()
        thread.join()
    assert pool.num_threads == 2


def test_pools_are_looked_for_again_once_modules_have_been_imported(monkeypatch):
    found = []
    monkeypatch.setattr(stopwatch, "_one_thread", stopwatch._OneThread())
    monkeypatch.setattr(
        stopwatch, "ThreadpoolController", lambda: found.append(Pool(None)) or found[-1]
    )
    for _ in range(3):
        with one_thread():
            assert found[-1].num_threads == 1
    assert len(found) == 1
    monkeypatch.setitem(sys.modules, "brings_a_pool", types.ModuleType("brings_a_pool"))
    with one_thread():
        assert [pool.num_threads for pool in found] == [2, 1]
    assert len(found) == 2


class Pool:
    """Stands in for threadpoolctl: a pool of the process that one thread, or any, may change."""

    internal_api, threading_layer = "openblas", "pthreads"

    def __init__(self, owner):
        self.owner, self.num_threads, self.lib_controllers = owner, 2, [self]

    def select(self, user_api):
        return self

    def set_num_threads(self, n):
        if self.owner in (None, threading.current_thread()):
            self.num_threads = n


def test_threads_that_come_and_go_leave_nothing(two_threads):
    def work(k):
        for _ in range(20):
            with one_thread(), one_thread():
                time.sleep(0.001 * (k % 3))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert threads() == {2}


def test_a_block_that_raises():
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert threads() == {2}


@pytest.mark.parametrize("readings", [(5.0, 3.0), (0.0, math.nan), (math.nan, 1.0)])
def test_a_clock_that_jumps_adds_nothing(readings, monkeypatch):
    clock, given = Stopwatch(), iter(readings)
    monkeypatch.setattr(time, "perf_counter", lambda: next(given))
    with clock("fit"):
        pass
    assert clock.seconds == {"fit": 0.0}

"""One thread for everything: more only slow down small matrices and networks."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

# Programs that tests start as groups of processes.
collect_ignore = ["sharded_processes.py", "two_processes.py"]


@pytest.fixture(autouse=True)
def level_of_messages():
    """Examples and benchmarks that run in this process set one of their own."""
    log = logging.getLogger("lightning_morse")
    before = log.level
    yield
    log.setLevel(before)


@pytest.fixture
def no_pictures(monkeypatch):
    """Nothing is drawn during a run."""
    from tests.callback_models import draw_nothing

    draw_nothing(monkeypatch)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What the tests of a file share is computed once: all of them go to one process."""
    from xdist.scheduler import LoadFileScheduling

    if config.getvalue("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process waits long for the last one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

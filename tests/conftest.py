"""One thread for everything: more only slow down small matrices and networks."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

# Programs that test_sharded and test_processes start twice.
collect_ignore = ["sharded_processes.py", "two_processes.py"]


@pytest.fixture
def no_pictures(monkeypatch):
    """Nothing is drawn during a run: where nobody looks at pictures, they are most of its cost."""
    from lightning_morse.callbacks._painter import Painter

    monkeypatch.setattr(Painter, "submit", lambda *_, **__: None)
    monkeypatch.setattr(Painter, "make_ready", lambda _: None)

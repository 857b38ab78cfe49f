"""How slow the machine is at present, and whether training leaves a core of it idle."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from lightning_morse.gp.fit import fit
from lightning_morse.stopwatch import one_thread

# The piece of work by which that is told, and what it took where costs were measured. Of plain
# linear algebra one cannot tell it: with the other core busy that took as long as before, and an
# analysis and a fit twice as long.
_POINTS, _TIMES, _SECONDS = 32, 2, 0.009
# No machine is taken to be faster than that one by more.
_FASTEST = 0.5


def slowness(clock: Callable[[], float]) -> float:
    """How many times slower this machine is at present than where costs were measured.

    Fits a surrogate to a few samples, which is what an analysis does most of its time: 18 ms on
    that machine. The quicker of two tries counts, as either may be held up by something else.

    Args:
        clock: Seconds since an arbitrary moment.

    Returns:
        The factor, at least 0.5.
    """
    x = np.random.default_rng(0).random((_POINTS, 2))
    losses = np.square(x @ [1.0, 2.0] - 1) + np.sin(5 * x[:, 0])
    took = []
    with one_thread():
        for _ in range(_TIMES):
            start = clock()
            fit(x, losses, (0.0, 0.0), (1.0, 1.0))
            took.append(clock() - start)
    return max(_FASTEST, min(took) / _SECONDS)


def leaves_a_core(device: torch.device) -> bool:
    """Whether training on a device leaves a core to another process.

    Where torch has as many threads as there are cores they wait for each other at full speed, and
    a process that takes only what is idle gets a hundredth of a core.

    Args:
        device: Where the network is.
    """
    can_tell = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    return n_cores > (torch.get_num_threads() if device.type == "cpu" else 1)

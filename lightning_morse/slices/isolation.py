"""Evaluations that leave precision settings and random number generators as they were."""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch


def _cuda_is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def plain_arithmetic(device_type: str) -> Iterator[None]:
    """No autograd and no autocast, whatever surrounds the call."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device_type}:
            # The cache of casts would keep the weights of an earlier point.
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Show nothing of what is printed, logged or warned of."""
    level = logging.root.manager.disable
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, level)
        logging.disable(logging.CRITICAL)
        yield


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the global random number generators on exit."""
    cuda = _cuda_is_initialized()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    numpy_state = np.random.get_state()  # noqa: NPY002 (user code may draw from the global one)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python without initialising a device."""
    # Not torch.manual_seed: if CUDA is not initialised yet, that would seed it once it is.
    torch.default_generator.manual_seed(seed)
    if _cuda_is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)

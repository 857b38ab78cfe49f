"""Which requests to end the run are those of a step, and which come from outside."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.requests import EndedByStepError, ending_nothing
from lightning_morse.slices.subspace import AffineSubspace


class TrialPruned(Exception):
    """As in Optuna."""


class Stop(BaseException):
    """As in other libraries."""


def exits_where_it_fails():
    try:
        raise ValueError("too high")
    except ValueError:
        sys.exit("diverged")


def interrupts():
    raise KeyboardInterrupt


def prunes():
    raise TrialPruned("not promising")


def stops():
    raise Stop


def quits():
    exit(2)


def raises_an_exit():
    raise SystemExit


OWN = [sys.exit, lambda: sys.exit(3), exits_where_it_fails, interrupts, prunes, stops, quits]


@pytest.mark.parametrize("request_to_end", [*OWN, raises_an_exit])
def test_a_request_of_the_step_is_a_failure(request_to_end):
    with pytest.raises(EndedByStepError, match="must not end the run"), ending_nothing():
        request_to_end()


def exits(number, frame):
    sys.exit(4)


class Handler:
    def __call__(self, signum, frame):
        self.hand_on(signum)

    def hand_on(self, signum):
        raise SystemExit(4)

    def method(self, signum, frame):
        signal.signal(signum, signal.SIG_DFL)
        raise Stop


class TimeIsUp(Exception):
    """An ordinary error, which a timer raises."""


def is_up(*args):
    raise TimeIsUp


HANDLERS = {
    "function": (exits, SystemExit),
    "lambda": (lambda *_: sys.exit(4), SystemExit),
    "object": (Handler(), SystemExit),
    "method": (Handler().method, Stop),
    "partial": (functools.partial(lambda code, number, frame: sys.exit(code), 4), SystemExit),
    "interrupt": (signal.default_int_handler, KeyboardInterrupt),
    "error": (is_up, TimeIsUp),
}


@contextmanager
def handled_by(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spins():
    end = time.monotonic() + 5
    while time.monotonic() < end:
        pass


def cleans_up():
    try:
        spins()
    except BaseException:
        sys.exit("cleaned up")


def works():
    nn.Linear(300, 300)(torch.zeros(3000, 300))
    works()


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no such signal")
@pytest.mark.parametrize("work", [spins, cleans_up, time.sleep, works], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", HANDLERS)
def test_a_request_from_outside_passes(kind, work):
    handler, error = HANDLERS[kind]
    if work is cleans_up:
        error = SystemExit

    def interrupted():
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        work(5) if work is time.sleep else work()

    with handled_by(handler), pytest.raises(error) as met, ending_nothing():
        interrupted()
    assert getattr(met.value, "ends_run", False) == (error is TimeIsUp)


def test_a_signal_that_a_step_sends_itself_is_one_from_outside():
    def interrupts_itself():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    # What runs in the background may have been started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), ending_nothing():
            interrupts_itself()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ordinary_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError) as met, ending_nothing():
        _ = 1 / 0
    assert not hasattr(met.value, "ends_run")


@pytest.mark.parametrize("request_to_end", OWN)
def test_a_point_at_which_a_step_ends_the_run_has_diverged(request_to_end):
    module = nn.Linear(2, 1)
    weights = flat_parameters(module)

    def loss_fn(net, batch):
        if not net.weight[0, 0] < float(weights[0]) + 0.5:
            request_to_end()
        return net(batch).sum()

    plane = AffineSubspace(weights, torch.eye(3)[:, :1])
    loss = LossSlice(module, plane, [torch.ones(1, 2)], loss_fn, failing="nan")
    losses = loss(torch.tensor([[0.0], [1.0], [-1.0]]))
    assert losses.isnan().tolist() == [False, True, False]
    assert isinstance(loss.fault, EndedByStepError)

"""The same training twice, without and with the callback, compared bit for bit."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as pl
import numpy as np
import torch

from lightning_morse import MorseMonitor

SEED = 1
# As users have it, but no analysis is left out for lack of time.
COMMON = {"max_overhead": 1.0}
LEAVES = -2


@dataclass(frozen=True)
class Case:
    """One training in one library.

    Attributes:
        library: Name of the distribution, for its version.
        model: What is trained.
        train: Trains it anew; passes the callbacks on as users of the library do.
        options: For the callback: the period, and whatever the model needs.
    """

    library: str
    model: str
    train: Callable[[list[pl.Callback]], Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        steps: Optimizer steps of the run without the callback.
        differs: Names of what was not the same in the run with it.
        repeatable: Whether two runs without it were the same; looked at only if something differs.
        said: What each analysis that succeeded said.
        failed: Number of analyses that failed.
        messages: Warnings of the callback.
    """

    steps: int
    differs: tuple[str, ...]
    repeatable: bool
    said: tuple[str, ...]
    failed: int
    messages: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the run is unchanged, and every analysis was made."""
        return not self.differs and not self.failed and bool(self.said)


class Witness(pl.Callback):
    """Holds on to the trainer and the module, which some libraries keep to themselves."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Note them down."""
        self.trainer, self.module = trainer, pl_module


class Listener(logging.Handler):
    """Keeps the warnings of the callback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.heard.append(record.getMessage())


def compared(case: Case) -> Outcome:
    """Train twice with the same seed and compare the ends."""
    bare = _end_of(case)
    monitor, listener = MorseMonitor(**{**COMMON, **case.options}), Listener()
    log = logging.getLogger("lightning_morse")
    log.addHandler(listener)
    try:
        watched = _end_of(case, monitor)
    finally:
        log.removeHandler(listener)
    differs = _differences(bare, watched)
    failed = [bool(row["morse/failed"]) for row in monitor.history]
    return Outcome(
        steps=bare["steps"],
        differs=differs,
        repeatable=not differs or not _differences(bare, _end_of(case)),
        said=tuple(_said(r) for r, bad in zip(monitor.history, failed, strict=True) if not bad),
        failed=sum(failed),
        messages=tuple(listener.heard),
    )


def _differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in {**a, **b} if a.get(name) != b.get(name))


def _said(row: Mapping[str, Any]) -> str:
    basin = int(row["morse/basin_current"])
    where = f"basin {basin}" if basin >= 0 else "leaves" if basin == LEAVES else "undecided"
    mu = row["morse/mu"]
    return f"{where} ({np.floor(100 * mu) / 100:.2f})" if mu else where


def _end_of(case: Case, *callbacks: pl.Callback) -> dict[str, Any]:
    """All that a run leaves behind, by name: the number of steps and digests."""
    pl.seed_everything(SEED, verbose=False)
    witness = Witness()
    case.train([witness, *callbacks])
    numpy_state = np.random.get_state()  # noqa: NPY002 (that nothing moves it is the point)
    trainer, module = witness.trainer, witness.module
    return {
        "steps": trainer.global_step,
        "weights": _digest(dict(module.named_parameters())),
        "buffers": _digest(dict(module.named_buffers())),
        "modes": _digest([part.training for part in module.modules()]),
        "optimizers": _digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "torch generator": _digest(torch.get_rng_state()),
        "NumPy generator": _digest(numpy_state),
        "Python generator": _digest(random.getstate()),
    }


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _bits(value):
        digest.update(part)
    return digest.hexdigest()


def _bits(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().as_subclass(torch.Tensor).numpy()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield repr(name).encode()
            yield from _bits(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _bits(part)
    else:
        yield repr(value).encode()

"""Where the findings of an analysis go: loggers, or files under the log directory.

Nothing here may end a run: each sink is tried for itself, and what it says when it fails is handed
to the caller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_morse.record import MorseAnalysis

Complain = Callable[[str], None]


def log_scalars(trainer: Any, scalars: Mapping[str, float], step: int, complain: Complain) -> None:
    """Give scalars to every logger of the trainer.

    Args:
        trainer: The Lightning trainer.
        scalars: Finite numbers by name.
        step: The step Lightning uses for its own logging.
        complain: Takes a message for each logger that failed.
    """
    for logger in trainer.loggers:
        with _attempt(f"logging to {type(logger).__name__}", complain):
            logger.log_metrics(dict(scalars), step=step)
            logger.save()


def log_pictures(
    trainer: Any,
    result: MorseAnalysis,
    figures: Mapping[str, Figure],
    row: Mapping[str, Any],
    step: int,
    complain: Complain,
    folder: Path,
    name: str = "morse",
) -> None:
    """Give figures and the table of Morse sets to TensorBoard, or write them to files without it.

    The files are ``morse/step-<step>-<figure>.png``, ``.json`` (``row`` and the table) and ``.npz``
    (:meth:`MorseAnalysis.load` reads it) under the log directory of the trainer. Each is written in
    whole or not at all.

    Args:
        trainer: The Lightning trainer.
        result: The analysis.
        figures: Figures by name.
        row: Plain facts about the analysis.
        step: The step Lightning uses for its own logging.
        complain: Takes a message for each sink that failed.
        folder: The log directory. Not asked for here, where only the first process comes by:
            ``trainer.log_dir`` is an exchange between all of them.
        name: Of the monitor: tags and the folder start with it.
    """
    writers = [w for w in map(_tensorboard_writer, trainer.loggers) if w is not None]
    for writer in writers:
        with _attempt("drawing to TensorBoard", complain):
            for kind, figure in figures.items():
                writer.add_figure(f"{name}/{kind}", figure, step, close=False)
            writer.add_text(f"{name}/sets", result.table(), step)
            writer.flush()
    if writers:
        return
    with _attempt("writing pictures", complain):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"step-{step:07d}"
        result.save(folder / f"{stem}.npz")
        text = json.dumps({**row, "sets": result.table().splitlines()}, indent=2)
        _write_whole(folder / f"{stem}.json", text.encode())
        for kind, figure in figures.items():
            png = BytesIO()
            figure.savefig(png, format="png")
            _write_whole(folder / f"{stem}-{kind}.png", png.getvalue())


def _tensorboard_writer(logger: Any) -> Any:
    """The logger's SummaryWriter; None if it has none.

    Known by what it can do: the loggers of the two Lightning packages are different classes.
    """
    experiment = getattr(logger, "experiment", None)
    able = all(callable(getattr(experiment, a, None)) for a in ("add_figure", "add_text", "flush"))
    return experiment if able else None


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _attempt(what: str, complain: Complain) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        complain(f"{what} failed: {type(error).__name__}: {error}")

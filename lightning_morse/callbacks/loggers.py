"""Where the findings of an analysis go: loggers, or files under the log directory.

Nothing here may end a run: each sink is tried for itself, and what it says when it fails is handed
to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_morse.atomic import write_whole
from lightning_morse.result import MorseAnalysis
from lightning_morse.view.record import PLUGIN, SUFFIX, encode, record_tag

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
    name: str = PLUGIN,
) -> None:
    """Give figures and the table of Morse sets to the loggers that take them, or write files.

    TensorBoard, W&B and MLflow take figures. Where no logger has taken them there will be files:
    ``<name>/step-<step>-<figure>.png``, ``.json`` (``row`` and the table) and ``.npz``
    (:meth:`MorseAnalysis.load` reads it) under the log directory. Each is written in whole or not
    at all.

    With TensorBoard or without, ``step-<step>.view.json`` is written there too: the record that
    ``lightning-morse report`` shows (:mod:`lightning_morse.view.record`). TensorBoard gets the same
    record for its tab "Morse".

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
    _log_view(trainer, result, row, step, complain, folder, name)
    table = result.table()
    taken = False
    for logger in trainer.loggers:
        with _attempt(f"drawing to {type(logger).__name__}", complain):
            taken |= any(take(logger, figures, table, step, name) for take in _TAKERS)
    if taken:
        return
    with _attempt("writing pictures", complain):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"step-{step:07d}"
        result.save(folder / f"{stem}.npz")
        text = json.dumps({**row, "sets": table.splitlines()}, indent=2)
        write_whole(folder / f"{stem}.json", text.encode())
        for kind, figure in figures.items():
            png = BytesIO()
            figure.savefig(png, format="png")
            write_whole(folder / f"{stem}-{kind}.png", png.getvalue())


def _log_view(
    trainer: Any,
    result: MorseAnalysis,
    row: Mapping[str, Any],
    step: int,
    complain: Complain,
    folder: Path,
    name: str,
) -> None:
    """Write the record that views show to the log directory, and give it to TensorBoard."""
    text = None
    with _attempt("making the view record", complain):
        text = encode(
            result,
            step=step,
            epoch=row.get("epoch"),
            scalars={k: v for k, v in row.items() if k.startswith(f"{name}/")},
            **_course(trainer, result),
        )
    if text is None:
        return
    with _attempt("writing the view record", complain):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(folder / name / f"step-{step:07d}{SUFFIX}", text.encode())
    for logger in trainer.loggers:
        with _attempt("giving the view record to TensorBoard", complain):
            writer: Any = getattr(logger, "experiment", None)
            if _can(getattr(writer, "file_writer", None), "add_summary"):
                _add_record(writer, text, step, name)


def _course(trainer: Any, result: MorseAnalysis) -> dict[str, Any]:
    """Trajectory, current point, axis labels and title of the callback that made the analysis."""
    for callback in getattr(trainer, "callbacks", ()):
        if getattr(callback, "result", None) is result:
            return dict(getattr(callback, "_view", {}))
    return {}


def _add_record(writer: Any, text: str, step: int, name: str = PLUGIN) -> None:
    """Add a record to the event file of a SummaryWriter, marked for the plugin ``morse``."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    tensor = TensorProto(
        dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[text.encode()]
    )
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN),
        data_class=DATA_CLASS_TENSOR,
    )
    value = Summary.Value(tag=record_tag(name), tensor=tensor, metadata=metadata)
    writer.file_writer.add_summary(Summary(value=[value]), step)


# Loggers are known by what they can do: those of the two Lightning packages are different classes.


def _tensorboard(
    logger: Any, figures: Mapping[str, Figure], table: str, step: int, name: str
) -> bool:
    writer: Any = getattr(logger, "experiment", None)
    if not _can(writer, "add_figure", "add_text", "flush"):
        return False
    for kind, figure in figures.items():
        writer.add_figure(f"{name}/{kind}", figure, step, close=False)
    writer.add_text(f"{name}/sets", table, step)
    writer.flush()
    return True


def _wandb(logger: Any, figures: Mapping[str, Figure], table: str, step: int, name: str) -> bool:
    if not _can(logger, "log_image", "log_table"):
        return False
    for kind, figure in figures.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        logger.log_image(f"{name}/{kind}", [np.asarray(canvas.buffer_rgba())], step)
    lines = [[line] for line in table.splitlines()]
    logger.log_table(f"{name}/sets", columns=["sets"], data=lines, step=step)
    return True


def _mlflow(logger: Any, figures: Mapping[str, Figure], table: str, step: int, name: str) -> bool:
    client: Any = getattr(logger, "experiment", None)
    if not _can(client, "log_figure", "log_text"):
        return False
    stem = f"{name}/step-{step:07d}"
    for kind, figure in figures.items():
        client.log_figure(logger.run_id, figure, f"{stem}-{kind}.png")
    client.log_text(logger.run_id, table, f"{stem}-sets.md")
    return True


_TAKERS = (_tensorboard, _wandb, _mlflow)


def _can(thing: Any, *methods: str) -> bool:
    return all(callable(getattr(thing, method, None)) for method in methods)


@contextmanager
def _attempt(what: str, complain: Complain) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        complain(f"{what} failed: {type(error).__name__}: {error}")

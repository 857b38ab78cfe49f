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
from lightning_morse.view_record import SUFFIX, encode

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
) -> None:
    """Give figures and the table of Morse sets to TensorBoard, or write them to files without it.

    The files are ``morse/step-<step>-<figure>.png``, ``.json`` (``row`` and the table) and ``.npz``
    (:meth:`MorseAnalysis.load` reads it) under the log directory of the trainer. Each is written in
    whole or not at all.

    With TensorBoard or without, ``step-<step>.view.json`` is written there too: the record that
    ``lightning-morse report`` shows (:mod:`lightning_morse.view_record`). TensorBoard gets the same
    record for its tab "Morse".

    Args:
        trainer: The Lightning trainer.
        result: The analysis.
        figures: Figures by name.
        row: Plain facts about the analysis.
        step: The step Lightning uses for its own logging.
        complain: Takes a message for each sink that failed.
    """
    writers = [w for w in map(_tensorboard_writer, trainer.loggers) if w is not None]
    _log_view(trainer, result, row, step, writers, complain)
    for writer in writers:
        with _attempt("drawing to TensorBoard", complain):
            for name, figure in figures.items():
                writer.add_figure(f"morse/{name}", figure, step, close=False)
            writer.add_text("morse/sets", result.table(), step)
            writer.flush()
    if writers:
        return
    with _attempt("writing pictures", complain):
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "morse"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"step-{step:07d}"
        result.save(folder / f"{stem}.npz")
        text = json.dumps({**row, "sets": result.table().splitlines()}, indent=2)
        _write_whole(folder / f"{stem}.json", text.encode())
        for name, figure in figures.items():
            png = BytesIO()
            figure.savefig(png, format="png")
            _write_whole(folder / f"{stem}-{name}.png", png.getvalue())


def _log_view(
    trainer: Any,
    result: MorseAnalysis,
    row: Mapping[str, Any],
    step: int,
    writers: list[Any],
    complain: Complain,
) -> None:
    """Write the record that views show to the log directory, and give it to TensorBoard."""
    text = None
    with _attempt("making the view record", complain):
        text = encode(
            result,
            step=step,
            epoch=row.get("epoch"),
            scalars={k: v for k, v in row.items() if k.startswith("morse/")},
            **_course(trainer, result),
        )
    if text is None:
        return
    with _attempt("writing the view record", complain):
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "morse"
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(folder / f"step-{step:07d}{SUFFIX}", text.encode())
    for writer in writers:
        with _attempt("giving the view record to TensorBoard", complain):
            _add_record(writer, text, step)


def _course(trainer: Any, result: MorseAnalysis) -> dict[str, Any]:
    """Trajectory, current point, axis labels and title of the callback that made the analysis."""
    for callback in getattr(trainer, "callbacks", ()):
        if getattr(callback, "result", None) is result:
            return dict(getattr(callback, "_view", {}))
    return {}


def _add_record(writer: Any, text: str, step: int) -> None:
    """Add a record to the event file of a SummaryWriter, marked for the plugin ``morse``."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    tensor = TensorProto(
        dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[text.encode()]
    )
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="morse"),
        data_class=DATA_CLASS_TENSOR,
    )
    value = Summary.Value(tag="morse/record", tensor=tensor, metadata=metadata)
    writer.file_writer.add_summary(Summary(value=[value]), step)


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

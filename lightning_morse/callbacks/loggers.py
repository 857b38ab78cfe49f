"""Where the findings of an analysis go: to the loggers, or to files in the log directory.

Nothing here ends a run: each destination is tried on its own, under a guard of the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_morse.atomic import write_whole
from lightning_morse.callbacks._lightning import TrainerLike
from lightning_morse.monitoring.one_analysis import View
from lightning_morse.result import MorseAnalysis
from lightning_morse.view.record import PLUGIN, SUFFIX, encode, record_tag

# Takes what is being done, and keeps a failure of it from ending the run.
GuardOf = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, eq=False)
class Report:
    """An analysis to be shown, and when it was made.

    Attributes:
        result: The analysis.
        view: Training in its slice.
        scalars: Its scalars, by the names they are published under.
        step: The step under which Lightning logs.
        epoch: The epoch.
    """

    result: MorseAnalysis
    view: View
    scalars: Mapping[str, float]
    step: int
    epoch: int


def log_scalars(
    trainer: TrainerLike, scalars: Mapping[str, float], step: int, guard: GuardOf
) -> None:
    """Give scalars to every logger of the trainer.

    Args:
        trainer: The Lightning trainer.
        scalars: Finite numbers by name.
        step: The step under which Lightning logs.
        guard: Makes the guard for each logger.
    """
    for logger in trainer.loggers:
        with guard(f"logging to {type(logger).__name__}"), _taken_back(logger):
            logger.log_metrics(dict(scalars), step=step)
            logger.save()


@contextmanager
def _taken_back(logger: Any) -> Iterator[None]:
    """If the block fails, take rows out of a logger that would try to write them again and again.

    A CSVLogger keeps rows that it could not write, as on a full disk, and fails once more when the
    run ends: a run that would have ended well but for our values.
    """
    experiment: Any = getattr(logger, "experiment", None)
    rows, keys = (getattr(experiment, name, None) for name in ("metrics", "metrics_keys"))
    if not isinstance(rows, list) or not isinstance(keys, list):
        yield
        return
    rows, keys = list(rows), list(keys)
    try:
        yield
    except Exception:
        experiment.metrics, experiment.metrics_keys = rows, keys
        raise


def log_pictures(
    trainer: TrainerLike,
    report: Report,
    figures: Mapping[str, Figure],
    guard: GuardOf,
    folder: Path,
    name: str = PLUGIN,
) -> None:
    """Give figures and the table of Morse sets to the loggers that take them, or write files.

    TensorBoard, W&B and MLflow take figures. If no logger has taken them, files are written:
    ``<name>/step-<step>-<figure>.png``, ``.json`` (scalars, verdict and table) and ``.npz`` (read
    by :meth:`MorseAnalysis.load`) in the log directory, each whole or not at all.

    In either case ``step-<step>.view.json`` is written there: the record that
    ``lightning-morse report`` shows (:mod:`lightning_morse.view.record`). TensorBoard gets the same
    record for its tab "Morse".

    Args:
        trainer: The Lightning trainer.
        report: The analysis.
        figures: Figures by name.
        guard: Makes the guard for each destination.
        folder: The log directory. Not read from the trainer here, where only the first process
            comes by: ``trainer.log_dir`` is an exchange between all of them.
        name: Name of the monitor, with which tags and the folder begin.
    """
    _log_view(trainer, report, guard, folder, name)
    said = report.view.verdict
    table = report.result.table()
    text = f"{said}\n\n{table}" if said else table
    taken = False
    for logger in trainer.loggers:
        with guard(f"drawing to {type(logger).__name__}"):
            taken |= any(take(logger, figures, text, report.step, name) for take in _TAKERS)
    if taken:
        return
    with guard("writing pictures"):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"step-{report.step:07d}"
        report.result.save(folder / f"{stem}.npz")
        row = {"step": report.step, "epoch": report.epoch, **report.scalars}
        facts = json.dumps({**row, "verdict": said, "sets": table.splitlines()}, indent=2)
        write_whole(folder / f"{stem}.json", facts.encode())
        for kind, figure in figures.items():
            png = BytesIO()
            figure.savefig(png, format="png")
            write_whole(folder / f"{stem}-{kind}.png", png.getvalue())


def _log_view(
    trainer: TrainerLike, report: Report, guard: GuardOf, folder: Path, name: str
) -> None:
    """Write the record that views show to the log directory, and give it to TensorBoard."""
    text, view = None, report.view
    with guard("making the view record"):
        text = encode(
            report.result,
            step=report.step,
            epoch=report.epoch,
            scalars=report.scalars,
            trajectory=view.trajectory,
            current=view.current,
            axis_labels=view.axis_labels,
            title=view.title,
            identities=view.identities,
            verdict=view.verdict,
        )
    if text is None:
        return
    with guard("writing the view record"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(folder / name / f"step-{report.step:07d}{SUFFIX}", text.encode())
    for logger in trainer.loggers:
        with guard("giving the view record to TensorBoard"):
            writer: Any = getattr(logger, "experiment", None)
            if _can(getattr(writer, "file_writer", None), "add_summary"):
                _add_record(writer, text, report.step, name)


def _add_record(writer: Any, text: str, step: int, name: str = PLUGIN) -> None:
    """Add a record to the event file of a SummaryWriter, marked for our plugin."""
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


# Loggers are told apart by what they can do: each Lightning package has classes of its own.


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
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        logger.log_image(f"{name}/{kind}", [np.asarray(canvas.buffer_rgba())], step)
    lines = [[line] for line in table.splitlines() if line]
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

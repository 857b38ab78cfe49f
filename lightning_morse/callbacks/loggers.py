"""Where the findings of an analysis go: to the loggers, or to files in the log directory.

Nothing here ends a run: each destination is tried on its own, under a guard of the caller's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_morse._compat_torch import file_writer
from lightning_morse.callbacks._lightning import TrainerLike
from lightning_morse.callbacks._taken_back import has_event_file, taken_back
from lightning_morse.callbacks.logger_kinds import LoggerKind, Telling, kind_of_logger, stem_of
from lightning_morse.files.atomic import write_whole
from lightning_morse.files.disk import leave_room
from lightning_morse.monitoring.findings import View
from lightning_morse.result import MorseAnalysis
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import PLUGIN, SUFFIX, record_tag
from lightning_morse.view.report import write_report
from lightning_morse.view.runs import Reading, Run

# Takes what is being done, and keeps a failure of it from ending the run.
GuardOf = Callable[[str], AbstractContextManager[object]]

_FILES_BYTES = 2**22  # about what an archive takes


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
        with guard(f"logging to {type(logger).__name__}"), taken_back(logger):
            logger.log_metrics(dict(scalars), step=step)
            logger.save()


@dataclass(frozen=True, eq=False)
class Destination:
    """Where the pictures of an analysis go, whenever they are there.

    Attributes:
        loggers: The loggers that have taken its text; none for files.
        folder: The log directory.
        step: The step of the analysis under which Lightning logs.
        name: Name of the monitor.
        guard: Makes the guard for each destination.
    """

    loggers: tuple[Any, ...]
    folder: Path
    step: int
    name: str
    guard: GuardOf

    def take(self, pictures: Mapping[str, bytes]) -> None:
        """Take the figures.

        Args:
            pictures: PNG files by the name of the figure.
        """
        taken = False
        for logger in self.loggers:
            with self.guard(f"drawing to {type(logger).__name__}"), taken_back(logger):
                kind = kind_of_logger(logger)
                assert kind is not None, "a logger that has taken text"
                kind.show(logger, pictures, self.step, self.name)
                taken = True
        if taken:
            return
        with self.guard("writing pictures"):
            leave_room(self.folder, sum(map(len, pictures.values())))
            for figure, png in pictures.items():
                write_whole(self.folder / self.name / f"{stem_of(self.step)}-{figure}.png", png)


def log_report(
    trainer: TrainerLike, report: Report, guard: GuardOf, folder: Path, name: str = PLUGIN
) -> Destination:
    """Give an analysis to the loggers that take figures, or write files: all but the figures.

    TensorBoard, W&B and MLflow take figures, and with them the table of Morse sets. If no logger
    has taken it, files are written: ``<name>/step-<step>.json`` (scalars, verdict and table) and
    ``.npz`` (read by :meth:`MorseAnalysis.load`) in the log directory, each whole or not at all;
    figures will be ``<name>/step-<step>-<figure>.png``.

    In either case ``step-<step>.view.json`` is written there: the record that
    ``lightning-morse report`` shows (:mod:`lightning_morse.view.record`). TensorBoard gets the same
    record for its tab "Morse".

    Args:
        trainer: The Lightning trainer.
        report: The analysis.
        guard: Makes the guard for each destination.
        folder: The log directory. Not read from the trainer here, where only the first process
            comes by: ``trainer.log_dir`` is an exchange between all of them.
        name: Name of the monitor, with which tags and the folder begin.

    Returns:
        Where the figures go.
    """
    _log_view(trainer, report, guard, folder, name)
    told, takers = Telling(report.result, report.view.verdict, report.step, name), []
    for logger in trainer.loggers:
        with guard(f"drawing to {type(logger).__name__}"):
            kind = kind_of_logger(logger)
            if kind is not None:
                with taken_back(logger):
                    kind.tell(logger, told)
                takers.append(logger)
    if not takers:
        with guard("writing files"):
            leave_room(folder, _FILES_BYTES)
            (folder / name).mkdir(parents=True, exist_ok=True)
            stem = folder / name / stem_of(report.step)
            report.result.save(f"{stem}.npz")
            row: dict[str, Any] = {"step": report.step, "epoch": report.epoch, **report.scalars}
            row |= {"verdict": told.verdict, "sets": report.result.table().splitlines()}
            if report.view.loss_of:
                row["loss_of"] = report.view.loss_of
            write_whole(f"{stem}.json", json.dumps(row, indent=2).encode())
    return Destination(tuple(takers), folder, report.step, name, guard)


def takers_of_reports(trainer: TrainerLike, guard: GuardOf) -> list[tuple[type[LoggerKind], Any]]:
    """The loggers that take the report of a run, each with its kind; arguments as below."""
    takers = []
    for logger in trainer.loggers:
        with guard(f"looking at {type(logger).__name__}"):
            kind = kind_of_logger(logger)
            if kind is not None and kind.takes_reports():
                takers.append((kind, logger))
    return takers


def log_run_report(
    trainer: TrainerLike,
    steps: Sequence[int],
    guard: GuardOf,
    folder: Path,
    name: str = PLUGIN,
) -> None:
    """Give the report of a run, as HTML, to the loggers that take reports: W&B and MLflow.

    It is made from the view records that the run has written to the log directory; other runs may
    have written there too. TensorBoard has the same picture in its tab.

    Args:
        trainer: The Lightning trainer.
        steps: Steps of the analyses of this run.
        guard: Makes the guard for each destination.
        folder: The log directory.
        name: Name of the monitor.
    """
    takers = takers_of_reports(trainer, guard)
    if not takers:
        return
    with guard("making the report"), tempfile.TemporaryDirectory() as home:
        paths = [(step, folder / name / f"{stem_of(step)}{SUFFIX}") for step in steps]
        readings = tuple(Reading(path, step) for step, path in paths if path.is_file())
        if not readings:
            return
        write_report([Run(name, readings, {})], Path(home) / "report.html")
        for kind, logger in takers:
            with guard(f"giving the report to {type(logger).__name__}"):
                kind.report(logger, Path(home), name)


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
            loss_of=view.loss_of,
        )
    if text is None:
        return
    with guard("writing the view record"):
        leave_room(folder, len(text))
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(folder / name / f"{stem_of(report.step)}{SUFFIX}", text.encode())
    for logger in trainer.loggers:
        with guard("giving the view record to TensorBoard"):
            writer: Any = getattr(logger, "experiment", None)
            if has_event_file(writer):
                with taken_back(logger):
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
    file_writer(writer).add_summary(Summary(value=[value]), step)

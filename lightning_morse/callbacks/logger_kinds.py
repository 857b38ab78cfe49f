"""The loggers that take figures, tables and reports, each in its own way.

They are told apart by what they can do: each Lightning package has classes of its own. All of it
goes through the logger that the user has set up, to where that writes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.image import imread

from lightning_morse._compat_torch import file_writer
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import kind_of_set

_RGBA = 4  # of TensorBoard's colour spaces
COLUMNS = (
    "step",
    "set",
    "what",
    "Morse index",
    "loss",
    "loss deviation",
    "volume",
    "basin",
    "mu",
    "center",
)


@dataclass(frozen=True, eq=False)
class Telling:
    """What is told of an analysis at once; its figures come later.

    Attributes:
        result: The analysis.
        verdict: What becomes of the weights, in a sentence; may be empty.
        step: The step under which Lightning logs.
        name: Name of the monitor.
    """

    result: MorseAnalysis
    verdict: str
    step: int
    name: str

    @property
    def text(self) -> str:
        """Sentence and table of Morse sets, in Markdown."""
        table = self.result.table()
        return f"{self.verdict}\n\n{table}" if self.verdict else table

    def rows(self) -> list[list[Any]]:
        """The Morse sets, one row each under :data:`COLUMNS`; None where nothing is known.

        Losses are in the units of the loss, shares from 0 to 1; coordinates of the centre are text.
        """
        result, shares = self.result, self.result.basin_volumes
        return [
            [
                *(self.step, i, kind_of_set(m.is_attractor, m.resolved, m.index, result.grid.dim)),
                *(m.index, _known(m.loss), _known(m.loss_deviation), float(m.volume)),
                *(shares.get(i), m.mu, ", ".join(f"{c:.3g}" for c in m.center)),
            ]
            for i, m in enumerate(result.morse_sets)
        ]


class LoggerKind(Protocol):
    """How to give findings to one kind of logger."""

    @staticmethod
    def knows(logger: Any) -> bool:
        """Whether a logger is of this kind."""

    @staticmethod
    def tell(logger: Any, told: Telling) -> None:
        """Give it what is told of an analysis at once."""

    @staticmethod
    def show(logger: Any, pictures: Mapping[str, bytes], step: int, name: str) -> None:
        """Give it the figures of an analysis, PNG files by their names."""

    @staticmethod
    def takes_reports() -> bool:
        """Whether it takes the report of a run."""

    @staticmethod
    def report(logger: Any, folder: Path, name: str) -> None:
        """Give it the report of a run, all files in a folder."""


class _TensorBoard:
    """A SummaryWriter; pictures go to its event file as they are, not decoded and coded again."""

    @staticmethod
    def knows(logger: Any) -> bool:
        return _can(getattr(logger, "experiment", None), "add_image", "add_text", "flush")

    @staticmethod
    def tell(logger: Any, told: Telling) -> None:
        logger.experiment.add_text(f"{told.name}/sets", told.text, told.step)

    @staticmethod
    def show(logger: Any, pictures: Mapping[str, bytes], step: int, name: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for kind, png in pictures.items():
            width, height = struct.unpack(">II", png[16:24])  # the head of every PNG
            image = Summary.Image(
                height=height, width=width, colorspace=_RGBA, encoded_image_string=png
            )
            summary = Summary(value=[Summary.Value(tag=f"{name}/{kind}", image=image)])
            file_writer(logger.experiment).add_summary(summary, step)

    @staticmethod
    def takes_reports() -> bool:
        return False  # it has the tab

    @staticmethod
    def report(logger: Any, folder: Path, name: str) -> None:
        raise AssertionError("TensorBoard takes no reports")


class _WandB:
    """A WandbLogger; the step is a value beside the picture, so it may arrive late."""

    @staticmethod
    def knows(logger: Any) -> bool:
        return _can(logger, "log_image", "log_table")

    @staticmethod
    def tell(logger: Any, told: Telling) -> None:
        given = {"columns": list(COLUMNS), "data": told.rows(), "step": told.step}
        logger.log_table(f"{told.name}/sets", **given)
        if told.verdict:
            logger.log_metrics({f"{told.name}/sentence": told.verdict}, told.step)

    @staticmethod
    def show(logger: Any, pictures: Mapping[str, bytes], step: int, name: str) -> None:
        for kind, png in pictures.items():
            logger.log_image(f"{name}/{kind}", [_pixels(png)], step)

    @staticmethod
    def takes_reports() -> bool:
        return True

    @staticmethod
    def report(logger: Any, folder: Path, name: str) -> None:
        allowed = re.sub(r"[^\w.-]", "-", f"{name}-report")  # in names of artifacts
        logger.experiment.log_artifact(str(folder), name=allowed, type="report")


class _MLflow:
    """An MLFlowLogger; tables of all analyses are one, with a column for the step."""

    @staticmethod
    def knows(logger: Any) -> bool:
        return _can(getattr(logger, "experiment", None), "log_image", "log_text")

    @staticmethod
    def tell(logger: Any, told: Telling) -> None:
        client, run = logger.experiment, logger.run_id
        client.log_text(run, told.text, f"{told.name}/{stem_of(told.step)}-sets.md")
        if told.verdict:
            client.set_tag(run, f"{told.name}/sentence", told.verdict)
        rows = told.rows()
        columns = {name: [row[k] for row in rows] for k, name in enumerate(COLUMNS)}
        if rows and _has_pandas():
            client.log_table(run, columns, f"{told.name}/sets.json")
        elif rows:  # as mlflow-skinny comes: the same content, which its pages show as a file
            split = {"columns": list(COLUMNS), "data": rows}
            client.log_dict(run, split, f"{told.name}/{stem_of(told.step)}-sets.json")

    @staticmethod
    def show(logger: Any, pictures: Mapping[str, bytes], step: int, name: str) -> None:
        for kind, png in pictures.items():
            path = f"{name}/{stem_of(step)}-{kind}.png"
            logger.experiment.log_image(logger.run_id, _pixels(png), path)

    @staticmethod
    def takes_reports() -> bool:
        return True

    @staticmethod
    def report(logger: Any, folder: Path, name: str) -> None:
        logger.experiment.log_artifacts(logger.run_id, str(folder), f"{name}/report")


def kind_of_logger(logger: Any) -> type[LoggerKind] | None:
    """The kind of a logger; None if it takes no figures."""
    kinds: tuple[type[LoggerKind], ...] = (_TensorBoard, _WandB, _MLflow)
    return next((kind for kind in kinds if kind.knows(logger)), None)


def stem_of(step: int) -> str:
    """How names of the files of an analysis begin."""
    return f"step-{step:07d}"


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _has_pandas() -> bool:
    """Whether MLflow can make tables."""
    return find_spec("pandas") is not None


def _pixels(png: bytes) -> Any:
    """Pixels of a PNG, shape ``(height, width, 4)``, 0 to 255."""
    return np.rint(255 * imread(BytesIO(png), format="png")).astype(np.uint8)


def _can(thing: Any, *methods: str) -> bool:
    return all(callable(getattr(thing, method, None)) for method in methods)

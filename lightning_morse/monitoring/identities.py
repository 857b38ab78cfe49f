"""Asks the loss whether attractors of two analyses are the same; all processes do it together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lightning_morse._typing import Loss
from lightning_morse.barriers.segment import MOST_EVALUATIONS, Relation, Segment
from lightning_morse.distributed.errors import Guard, cause, origin
from lightning_morse.distributed.processes import Processes, SharedLoss
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from lightning_morse.monitoring.tracking import Questions, Tracked
from lightning_morse.slices.columns import gram_matrix
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.subspace import AffineSubspace


class Identification:
    """Answers the questions of a tracker by evaluating the loss between attractors.

    Args:
        processes: The processes of the run.
        slice_on: Makes the loss of this process on a subspace.
        meter: Takes the time of evaluations, and says whether there is time for more.
        warn: Takes a message and what identifies its cause.
        most: Most evaluations of the analysis, those that the meter has counted included.
    """

    def __init__(
        self,
        processes: Processes,
        slice_on: Callable[[AffineSubspace], LossSlice],
        meter: Meter,
        warn: Callable[[str, str], None],
        most: float = math.inf,
    ) -> None:
        self._processes, self._slice_on, self._meter = processes, slice_on, meter
        self._warn, self._most = warn, most
        # In the first process only.
        self._questions: Questions | None = None
        self._asked: _Asked | None = None
        self._answer: Relation | None = None
        self._tracked: Tracked | None = None

    def run(self, begin: Callable[[], Questions]) -> Tracked | None:
        """Answer all questions; all processes call it together.

        Args:
            begin: Begins to ask; called in the first process.

        Returns:
            The identities, in the first process.

        Raises:
            ProcessError: If it failed in another process.
        """
        while True:
            line = self._processes.first(lambda: self._next_line(begin))
            if line is None:
                return self._tracked
            self._evaluate(line)

    def _next_line(self, begin: Callable[[], Questions]) -> AffineSubspace | None:
        """The line that the next question is about, if it needs the loss; None at the end."""
        try:
            if self._questions is None:
                self._questions = begin()
                segment = next(self._questions)
            else:
                segment = self._questions.send(self._answer)
            while True:
                if segment.is_point:
                    segment = self._questions.send("connected")
                elif not self._affords_a_line():
                    segment = self._questions.send(None)
                else:
                    self._asked = _Asked.of(segment)
                    return self._asked.line
        except StopIteration as done:
            self._tracked = done.value
            return None

    def _affords_a_line(self) -> bool:
        meter, n = self._meter, MOST_EVALUATIONS
        return meter.n_evaluations + n <= self._most and meter.affords(n)

    def _evaluate(self, line: AffineSubspace) -> None:
        self._answer = None
        try:
            loss = self._processes.each(lambda: self._slice_on(line))
        except OutOfTimeError:
            return
        shared = SharedLoss(loss, lambda: loss.n_examples, self._processes)

        def answer() -> Relation | None:
            assert self._asked is not None
            found: Relation | None = None
            with Guard(self._told):  # a failure here is no failed analysis
                found = self._asked.relation(self._meter.of(shared))
            return found

        self._answer = shared.explore(answer)

    def _told(self, error: Exception) -> None:
        self._warn(f"an attractor is recognised by its slice alone ({cause(error)})", origin(error))


@dataclass(frozen=True, eq=False)
class _Asked:
    """A segment as a slice of one dimension, on the CPU."""

    segment: Segment
    line: AffineSubspace
    length: float

    @classmethod
    def of(cls, segment: Segment) -> _Asked:
        # In place: large networks leave no room for another copy.
        length = math.sqrt(float(gram_matrix(segment.way[:, None])))
        along = segment.way.div_(length)[:, None]
        return cls(segment, AffineSubspace(segment.start, along), length)

    def relation(self, loss: Loss) -> Relation:
        def at(share: float) -> float:
            return float(loss(torch.tensor([[share * self.length]], dtype=torch.float64))[0])

        return self.segment.relation(at)

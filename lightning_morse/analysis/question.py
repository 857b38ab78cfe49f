"""The question where the flow of a loss leads from a point, and all that is done to answer it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.conclusion import Final, Measuring, conclude, final_portrait
from lightning_morse.analysis.design import FEWEST_SAMPLES, design
from lightning_morse.analysis.exploration import Explorer
from lightning_morse.analysis.framing import first_in_frame, framed
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.sampling import Sampler
from lightning_morse.analysis.settings import Settings
from lightning_morse.analysis.tower import Tower
from lightning_morse.result import MorseAnalysis
from lightning_morse.result.frame import Frame
from lightning_morse.stopwatch import Stopwatch

# So often a surrogate is judged, and sampled further where that leaves a question open.
_MOST_JUDGEMENTS = 3


@dataclass(frozen=True, eq=False)
class Question:
    """Where does the flow of a loss lead from a point?

    Begin one with :meth:`of`.

    Attributes:
        frame: The frame in which everything is computed; everything below is in it.
        point: The point, shape ``(d,)``.
        limits: Corners of the box that the outermost one may grow to.
        sampler: The loss, the boxes and the samples so far.
    """

    frame: Frame
    point: Array
    limits: tuple[Array, Array]
    sampler: Sampler

    @classmethod
    def of(
        cls,
        loss: Loss,
        point: Array,
        settings: Settings,
        farthest: tuple[Array, Array] | None,
        plan: Plan,
        clock: Stopwatch,
        is_over: Callable[[], bool] | None = None,
        known: Samples | None = None,
    ) -> Question:
        """Fill the box with samples.

        Args:
            loss: As in :func:`lightning_morse.analyze`, in units of its own.
            point: Shape ``(d,)``, inside the box of the settings.
            settings: The settings of the analysis, in these units.
            farthest: Corners of the box that the outermost one may grow to; None for itself.
            plan: How samples are spent.
            clock: Takes the time of the stages.
            is_over: Says that time is up.
            known: Samples there are already, in the box.
        """
        grid = settings.grid
        limits = (grid.lower, grid.upper) if farthest is None else farthest
        frame = Frame.of(grid.lower, grid.upper)
        settings = settings.within(frame)
        grid = settings.grid
        n_first = plan.first if known is None else max(FEWEST_SAMPLES, plan.first - len(known))
        with clock("loss"):
            places = design(grid.lower, grid.upper, n_first, settings.seed)
            samples = first_in_frame(loss, places, frame, is_over)
        if known is not None and len(known):
            samples = samples.followed_by(frame.points(known.points), frame.losses(known.losses))
        sampler = Sampler(framed(loss, frame), Tower(settings, samples), plan, clock, is_over)
        if farthest is not None:
            sampler.draw_in(frame.points(point))
        inside = frame.points(point), (frame.points(limits[0]), frame.points(limits[1]))
        return cls(frame, *inside, sampler)

    @property
    def samples(self) -> Samples:
        """All samples so far, in the units of the loss."""
        tower = self.sampler.tower
        found = tower.everything.followed_by(tower.left_out.points, tower.left_out.losses)
        units = self.frame.points_in_units(found.points), self.frame.losses_in_units(found.losses)
        return Samples(*units)

    def ask(self, most: int) -> PhasePortrait | None:
        """Sample until the question is decided, or there are so many samples, or all of the plan.

        Returns:
            The picture so far; None if the samples determine no surrogate.
        """
        whole = self.sampler.plan
        most = min(most, whole.most)
        self.sampler.plan = dataclasses.replace(whole, most=most)
        try:
            Explorer(self.sampler).follow(self.point, self.limits)
        finally:
            self.sampler.plan = whole
        return self.sampler.sketch(most)

    def is_answered(self, picture: PhasePortrait) -> bool:
        """Whether a picture names the basin of the point, or shows that it leaves."""
        return Explorer(self.sampler).answers(picture, self.point, self.limits)

    @property
    def n_leaks(self) -> float:
        """Through how many cells a well around the point may leak; infinite where there is none."""
        survey = self.sampler.survey(self.point)
        walls = None if survey is None else survey.leaks()
        return math.inf if walls is None else len(walls)

    def decide(self, *, sealing: bool = False, once: bool = False) -> Final:
        """Sample until the question is decided and the picture complete, and draw the last one.

        Args:
            sealing: Whether, where it is open, it is enough that the flow certainly stays.
            once: Whether to leave it at that where this picture leaves it open after all.
        """
        explorer, plan = Explorer(self.sampler), self.sampler.plan

        def sample() -> None:
            picture = self.sampler.sketch(plan.most) if sealing else None
            is_open = picture is not None and not picture.is_decided(self.point)
            if not (is_open and explorer.seal(self.point)):
                explorer.answer(self.point, self.limits, plan.usual)

        return judged(
            self.sampler,
            sample,
            lambda portrait: once or portrait.is_decided(self.point),
            self.point,
        )

    def conclude(self, final: Final) -> MorseAnalysis:
        """Describe the last picture, in the units of the loss."""
        sampler = self.sampler
        room = sampler.tower.n_samples if sampler.is_out_of_time else sampler.plan.most
        measuring = Measuring(sampler.loss, room)
        found = conclude(sampler.tower, final, sampler.clock, measuring, self.point)
        return self.frame.in_units(found)


def judged(
    sampler: Sampler,
    sample: Callable[[], object],
    is_enough: Callable[[PhasePortrait], bool],
    point: Array | None = None,
) -> Final:
    """Sample, judge the surrogates and draw the last picture.

    Once a surrogate is judged, what was decided may be open again; it is then sampled further, and
    judged by other evaluations, a few times in all.

    Args:
        sampler: Samples the loss.
        sample: Places samples until the question is decided or they run out.
        is_enough: Whether a picture decides it.
        point: The point that is asked about, shape ``(d,)``, if any.
    """
    for to_come in reversed(range(_MOST_JUDGEMENTS)):
        sample()
        sampler.judge()
        final = final_portrait(sampler.tower, sampler.clock, point)
        if not (to_come and sampler.left(sampler.plan.most)) or is_enough(final.portrait):
            break
        if point is not None:
            Explorer(sampler).look_again(final.portrait, point)
    return final

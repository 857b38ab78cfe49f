"""What an analysis costs, learnt from those before.

The cost is ``(snapshots + 8) per_snapshot + fixed max(1, n / 112) + recognising + n (per_sample +
per_point + batches * per_batch)``: the first for the slice, whose directions are found from the
snapshots (until one has been measured, each derivative of the loss that they take counts beside);
then what surrounds the samples (last fit, picture, files), where they did not decide: else most of
it has been done by then; recognising the attractors of earlier analyses;
then, for each sample, choosing its place, forming the weights there, and the loss on the probe
batches. Figures are drawn beside training and cost nothing, but at the end of the run it is
waited for the last ones. None of this bears on what an analysis claims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_morse.monitoring.batch_parts import Part

# What the first analysis is taken to cost before one has been measured, on 128 x 128 cells: seconds
# apart from slice and samples, of the slice per weight and snapshot, and to choose the place of one
# sample. Should it take longer, its samples end with its time, so that these mostly decide when it
# begins.
FIXED_SECONDS, SLICE_SECONDS, PLACE_SECONDS = 0.8, 2.5e-9, 0.0076
# The part of what surrounds the samples that comes after attractors have been recognised: files.
FILES_SECONDS = 0.1
# What surrounds the samples in the process that trains where another one does the numerics.
BESIDE_SECONDS = 0.1
# What drawing takes: the first figure, which says most, and all of an analysis.
FIRST_FIGURE_SECONDS, FIGURES_SECONDS = 0.35, 0.7
# What a slice costs whatever the number of snapshots (copies, setting up) is worth so many of them.
_SNAPSHOTS_WORTH = 8
# What is planned for what cannot be stopped half-way, over what has been measured: analyses differ.
# Samples are planned as measured: if they take longer there are fewer. So is a guess: if it is too
# high there may be no analysis in all the run. The same is kept for what follows the samples.
PLANNED_OVER_MEASURED = 1.1
# What was measured before counts so much less with each analysis since.
FADES = 0.8
# What a derivative of the loss takes, over the loss itself, until a slice has been measured: for a
# gradient three is usual, a product with the Hessian takes a second derivative.
_DERIVATIVE_OVER_LOSS = 4
# Cost apart from the samples on half as many cells per axis, over that on all of them: 0.4 to 0.6
# in analyses of nine ordinary runs.
COARSE_COST = 0.55
# Up to so many samples what surrounds them takes about as long, then in proportion: of analyses of
# three networks in which samples did not decide, on 128 x 128 cells, 0.25 s with 48, 0.32 with 128,
# 0.5 with 192, 0.55 with 256 and 0.62 with 320 (medians; up to 1.03); 0.1 where they did.
FLAT = 112
# How many times as long what was given up is taken to last as it had lasted by then.
_AT_LEAST = 2.0
# A machine that is no more than so many times as slow as another may be the same one.
_CLEARLY_SLOWER = 1.5
_MEASURED = (
    "fixed",
    "beside",
    "files",
    "recognising",
    "first_figure",
    "figures",
    "per_snapshot",
    "per_sample",
    "per_point",
    "per_batch",
)


@dataclass(frozen=True)
class Timing:
    """What an evaluation of the loss takes on one probe batch.

    Attributes:
        seconds: Seconds at the current weights; NaN if it cannot be evaluated, infinite if copying
            the network has taken all the time.
        n_examples: How many examples the batch has, if it can be cut; else 0.
        fewest: Fewest that should be left of them.
        finite: Whether the loss is finite.
        of_point: Seconds that it takes besides to form the weights of a point, whatever the batch.
    """

    seconds: float
    n_examples: int = 0
    fewest: int = 0
    finite: bool = False
    of_point: float = 0.0

    def allows(self, part: Part) -> bool:
        """Whether this, the timing of a part, is one of what a part should be."""
        return self.finite and self.n_examples == part.n


@dataclass(frozen=True)
class Portion:
    """How large an analysis is.

    Attributes:
        usual: Samples as a rule.
        most: Most samples, as long as the question of the weights is open.
        batches: Number of probe batches.
        resolution: Grid cells per axis.
        seconds: What it costs at most, as far as that can be known.
        part: The part of each batch; None for all of it.
        in_background: Whether another process does the numerics while training goes on.
    """

    usual: int
    most: int
    batches: int
    resolution: int
    seconds: float = 0.0
    part: Part | None = None
    in_background: bool = False


@dataclass
class Costs:
    """Costs of analyses, in seconds.

    Attributes:
        fixed: What surrounds the samples, on the grid that the user asked for.
        beside: The same where another process does the numerics.
        files: The part of it that comes after attractors have been recognised.
        recognising: Recognising the attractors of earlier analyses.
        first_figure: Drawing the first figure of an analysis.
        figures: Drawing all of them.
        per_snapshot: The slice, per snapshot of the trajectory, and what is worth eight more.
        per_sample: Choosing the place of one.
        per_point: Forming the weights of a point.
        per_batch: The loss at a point on one probe batch, or on the part of it that is used; None
            until it has been measured.
        slower: How many times slower the machine was than where the constants were measured.
        is_measured: Whether an analysis has been measured.
        n_derivatives: Derivatives of the loss that choosing directions takes.
        seen_fixed: What surrounded the samples of an analysis without a result, at most.
        seen_per_snapshot: The same for its slice.
        n_snapshots: Number of snapshots that there are now.
        most_snapshots: Number that there may be at the end.
    """

    fixed: float = FIXED_SECONDS
    beside: float = BESIDE_SECONDS
    files: float = FILES_SECONDS
    recognising: float = 0.0
    first_figure: float = FIRST_FIGURE_SECONDS
    figures: float = FIGURES_SECONDS
    per_snapshot: float = 0.0
    per_sample: float = PLACE_SECONDS
    per_point: float = 0.0
    per_batch: float | None = None
    slower: float = 1.0
    is_measured: bool = False
    n_derivatives: int = 0
    seen_fixed: float = 0.0
    seen_per_snapshot: float = 0.0
    n_snapshots: int = 1
    most_snapshots: int = 1

    def expect(self, n_weights: int, slower: float = 1.0) -> None:
        """Guess before the first analysis; what was measured on a quicker machine takes longer.

        Args:
            n_weights: Number of trainable weights.
            slower: How many times slower the machine is than where the constants were measured.
        """
        if self.is_measured:  # a resumed run
            self._take_longer(slower)
        else:
            self.slower = slower
            self.fixed = max(self.seen_fixed, slower * FIXED_SECONDS)
            self.beside = slower * BESIDE_SECONDS
            self.files = slower * FILES_SECONDS
            self.first_figure = slower * FIRST_FIGURE_SECONDS
            self.figures = slower * FIGURES_SECONDS
            # It reads memory, mostly: no quicker where arithmetic is.
            of_slice = max(1.0, slower) * SLICE_SECONDS * n_weights
            self.per_snapshot = max(self.seen_per_snapshot, of_slice)
            self.per_sample = slower * PLACE_SECONDS

    def _take_longer(self, slower: float) -> None:
        """Let everything take longer, on a machine that is clearly slower than the one before."""
        if (factor := slower / self.slower) > _CLEARLY_SLOWER:
            self.slower = slower
            measured = {name: getattr(self, name) for name in _MEASURED}
            vars(self).update({k: v and factor * v for k, v in measured.items()})

    def measured(
        self,
        seconds: float,
        of_slice: float,
        of_loss: float,
        of_places: float,
        n_evaluations: int,
        portion: Portion,
        coarse: bool,
        of_recognising: float = 0.0,
        of_files: float = 0.0,
        elsewhere: float = 0.0,
        *,
        decided: bool = False,
    ) -> None:
        """Learn from an analysis.

        Args:
            seconds: What it took in all of the process that trains.
            of_slice: What choosing the slice took of this.
            of_loss: What evaluating the loss at samples took of this.
            of_places: What choosing places took of this.
            n_evaluations: Number of evaluations at samples.
            portion: How large it was.
            coarse: Whether it was made on a coarser grid than asked for.
            of_recognising: What recognising attractors took of this.
            of_files: What came after that.
            elsewhere: Processor time of the process that did the numerics, choosing places
                included; 0 if this one did.
            decided: Whether it ended before it had taken all samples, so that it had made most of
                what surrounds them by then: that tells nothing of an analysis that does not.
        """
        if elsewhere:
            beside = max(0.0, seconds - of_slice - of_loss - of_recognising)
            self.beside = max(beside, FADES * self.beside) if self.is_measured else beside
        fixed = max(0.0, seconds + elsewhere - of_slice - of_loss - of_places - of_recognising)
        n, per_snapshot = max(1, n_evaluations), of_slice / self._snapshots
        fixed /= (COARSE_COST if coarse else 1.0) * max(1.0, n / FLAT)
        if decided:
            fixed = max(fixed, self.fixed)
        if self.is_measured:
            per_snapshot = max(per_snapshot, FADES * self.per_snapshot)
            fixed = max(fixed, FADES * self.fixed)
            of_places = max(of_places, FADES * self.per_sample * n)
            of_files = max(of_files, FADES * self.files)
        self.recognising = max(of_recognising, FADES * self.recognising)
        self.files = of_files
        self.fixed, self.per_sample, self.is_measured = fixed, of_places / n, True
        self.per_snapshot = per_snapshot
        if n_evaluations:
            self.evaluated(of_loss / n, portion.batches)

    def evaluated(self, seconds: float, batches: int = 1) -> None:
        """Learn what the loss at a point took on some probe batches."""
        self._learn(max(0.0, seconds - self.per_point) / batches)

    def timed(self, timing: Timing) -> None:
        """Learn what was timed before there was an analysis."""
        self.per_point = timing.of_point
        if math.isfinite(timing.seconds):
            self._learn(timing.seconds)

    def _learn(self, per_batch: float) -> None:
        self.per_batch = max(per_batch, FADES * (self.per_batch or 0.0))

    def failed(self, seconds: float, of_slice: float) -> None:
        """Learn from an analysis without a result, which says only how long it took.

        Args:
            seconds: What it took without the evaluations.
            of_slice: What choosing the slice took of this.
        """
        self.seen_fixed = max(self.seen_fixed, seconds - of_slice)
        self.seen_per_snapshot = max(self.seen_per_snapshot, of_slice / self._snapshots)
        self.fixed = max(self.fixed, self.seen_fixed)
        self.per_snapshot = max(self.per_snapshot, self.seen_per_snapshot)

    def gave_up(self, seconds: float) -> None:
        """Learn from a copy of the network that was given up: it takes longer than so long."""
        self.failed(_AT_LEAST * seconds, _AT_LEAST * seconds)

    def drew(self, first: float, figures: float) -> None:
        """Learn what the first figure of an analysis takes, and all of them."""
        self.first_figure, self.figures = first, figures

    @property
    def _snapshots(self) -> int:
        return self.n_snapshots + _SNAPSHOTS_WORTH

    @property
    def _planned_over(self) -> float:
        return PLANNED_OVER_MEASURED if self.is_measured else 1.0

    def around(
        self, coarse: bool, batches: int, *, at_end: bool = False, in_background: bool = False
    ) -> float:
        """Planned seconds of what surrounds the samples, now or at the end of the run."""
        snapshots = self._snapshots
        if at_end:
            snapshots = max(snapshots, self.most_snapshots + _SNAPSHOTS_WORTH)
        after = self._after(coarse, in_background)
        of_slice = self.per_snapshot * snapshots
        if not self.is_measured and not self.seen_per_snapshot:
            derivatives = self.n_derivatives * batches * (self.per_batch or 0.0)
            of_slice += _DERIVATIVE_OVER_LOSS * derivatives
        return self._planned_over * (of_slice + after)

    def kept(self, coarse: bool, in_background: bool = False) -> float:
        """Seconds that samples have to leave to what follows them."""
        return PLANNED_OVER_MEASURED * self._after(coarse, in_background)

    def kept_more(self, coarse: bool, in_background: bool = False) -> float:
        """What each sample but the first 112 adds to that."""
        return 0.0 if in_background else PLANNED_OVER_MEASURED * self._fixed(coarse) / FLAT

    def _fixed(self, coarse: bool) -> float:
        return self.fixed * (COARSE_COST if coarse else 1.0)

    def _after(self, coarse: bool, in_background: bool) -> float:
        return (self.beside if in_background else self._fixed(coarse)) + self.recognising

    @property
    def kept_for_files(self) -> float:
        """Seconds that recognising attractors has to leave to what follows it."""
        return PLANNED_OVER_MEASURED * self.files

    def each(self, batches: int, *, in_background: bool = False) -> float:
        """Planned seconds of one sample."""
        of_place = 0.0 if in_background else self.per_sample
        return of_place + self.per_point + batches * (self.per_batch or 0.0)

    def of(
        self,
        n_samples: int,
        batches: int,
        coarse: bool,
        *,
        at_end: bool = False,
        in_background: bool = False,
    ) -> float:
        """Planned seconds of an analysis, now or at the end of the run."""
        around = self.around(coarse, batches, at_end=at_end, in_background=in_background)
        more = max(0, n_samples - FLAT) * self.kept_more(coarse, in_background)
        return around + n_samples * self.each(batches, in_background=in_background) + more

    def n_samples(
        self, seconds: float, batches: int, coarse: bool, *, in_background: bool = False
    ) -> float:
        """How many samples an analysis has that costs so much."""
        wish = seconds - self.around(coarse, batches, in_background=in_background)
        each = self.each(batches, in_background=in_background)
        beyond = each + self.kept_more(coarse, in_background)
        if wish < FLAT * each:
            return wish / each
        return FLAT + (wish - FLAT * each) / beyond if beyond > 0 else math.inf

    def state_dict(self) -> dict[str, float | bool | None]:
        """What a resumed run needs."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, float | bool | None]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        for key in vars(self).keys() & state.keys():
            setattr(self, key, state[key])

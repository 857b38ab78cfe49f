"""How large an analysis may be for a given time; none of this bears on what it claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

from lightning_morse.monitoring.batch_parts import Part
from lightning_morse.monitoring.costs import Costs, Portion, Timing
from lightning_morse.monitoring.settings import (
    FEWEST_AUTO,
    FEWEST_KEPT,
    FEWEST_LAST,
    USUAL_SAMPLES,
    Settings,
)

# Probe batches are left out only as long as the loss takes more than this share of the smallest
# analysis: below that a noisier loss would buy next to no time.
_CHEAP_LOSS = 0.08
# Share of the samples at which the picture is left as it is, if the question of the weights is not
# open: of 36 analyses of six networks 34 answered it with 96 and 160 samples, 31 with 128 and 128.
SHARE_FOR_PICTURE = 0.6
# The last analysis of a run may have so many times the samples that are planned, should they take
# less than that: it ends with its time.
_MORE_AT_END = 1.4


class Portions:
    """Chooses how large analyses are.

    Args:
        settings: What the user asked for.
        costs: What analyses cost.

    Attributes:
        batches: Number of probe batches of this run, once it has been chosen; else None.
        part: The part of the one batch that is used; None for all of it.
        of_whole: What the loss takes on all of it; None if that is unknown, and it stays whole.
    """

    def __init__(self, settings: Settings, costs: Costs) -> None:
        self._settings = settings
        self._costs = costs
        self.batches: int | None = None
        self.part: Part | None = None
        self.of_whole: Timing | None = None

    def whole(self) -> Portion:
        """An analysis where time does not matter."""
        most = self._settings.most_wanted
        return Portion(self._usual, most, self._n_batches(), self._settings.cells, part=self.part)

    def smallest(self, *, in_background: bool = False) -> Portion:
        """The least that is worth while."""
        return self._sized(self._fewest, self._settings.may_coarsen, in_background)

    def least(self, *, final: bool, in_background: bool = False) -> float:
        """Planned seconds of the least that is worth while now.

        Args:
            final: Whether there will be no other; then half of the samples are better than none.
            in_background: Whether another process does the numerics.
        """
        fewest, n = self._fewest_at_end if final else self._fewest, self._n_batches()
        coarse = self._settings.may_coarsen
        return self._costs.of(fewest, n, coarse, in_background=in_background)

    def numerics(self) -> float:
        """Planned seconds of an analysis but for the loss, on fewer cells if that may be."""
        return self._costs.of(self._usual, 0, self._settings.may_coarsen)

    def seconds_of_usual(self, limit: float) -> float:
        """Planned seconds of the usual number of samples now, on fewer cells if that is too long.

        Args:
            limit: Seconds that are too long.
        """
        return self._costs.of(self._usual, self._n_batches(), self._is_coarse(limit))

    def last(self) -> float:
        """Planned seconds to keep for the end of the run."""
        coarse, n = self._settings.may_coarsen, self._settings.most_samples or FEWEST_KEPT
        return self._costs.of(n, self._n_batches(), coarse, at_end=True)

    def choose(
        self, limit: float, aim: float, *, final: bool = False, background: float = 0.0
    ) -> Portion | None:
        """The largest analysis that does not cost more than it should.

        Args:
            limit: Seconds that it may take.
            aim: Seconds that it should take, so that enough are left for others; it may take more
                if the smallest one does.
            final: As in :meth:`least`.
            background: Seconds in which another process should have done the numerics; 0 if this
                one does them.

        Returns:
            Its size; None if even the smallest one takes longer than it may.
        """
        if math.isinf(limit):
            return self.whole()
        n, aside = self._n_batches(), background > 0
        fewest, coarse = self._fewest, self._is_coarse(background or min(limit, aim))
        if final and self._costs.of(fewest, n, coarse) > limit:
            fewest = self._fewest_at_end
        smallest = self._costs.of(fewest, n, coarse, in_background=aside)
        if smallest > limit:
            return None
        wish = min(limit, max(aim, smallest))
        wanted = self._settings.most_wanted
        most = int(min(wanted, self._costs.n_samples(wish, n, coarse, in_background=aside)))
        if final and aim >= limit:  # nothing follows that time which is left over would be for
            most = int(_MORE_AT_END * most)
        sized = self._sized(max(fewest, min(most, wanted)), coarse, aside)
        return replace(sized, seconds=min(sized.seconds, limit))

    def choose_batches(self, aim: float) -> int:
        """Choose the number of probe batches for the run, if it has not been.

        Args:
            aim: Seconds that an analysis should take.
        """
        if self.batches is None:
            self.batches = self._settings.probe_batches
            coarse = self._settings.may_coarsen
            if self._settings.most_samples is None:
                while self.batches > 1 and self._is_dear(self.batches, coarse, aim):
                    self.batches -= 1
        return self.batches

    def _is_dear(self, batches: int, coarse: bool, aim: float) -> bool:
        """Whether the smallest analysis takes too long, and the loss a good part of it."""
        seconds = self._costs.of(FEWEST_AUTO, batches, coarse)
        of_loss = FEWEST_AUTO * batches * (self._costs.per_batch or 0.0)
        return seconds > aim and of_loss > _CHEAP_LOSS * seconds

    def next_part(self, seconds: float, *, at_end: bool) -> Part | None:
        """Half of the examples in use, where the loss on them is too dear for any analysis.

        Args:
            seconds: What there is for one in all of the run.
            at_end: Whether that is at the end of the run, and not now.

        Returns:
            What to time; None if there is time for an analysis as it is, if fewer examples would
            not help, or if there should not be fewer.
        """
        costs, whole = self._costs, self.of_whole
        if self.batches != 1 or whole is None or self._settings.most_samples is not None:
            return None
        n = whole.n_examples if self.part is None else self.part.n
        half, coarse = max(whole.fewest, n // 2), self._settings.may_coarsen
        least = costs.of(FEWEST_LAST, 1, coarse, at_end=at_end)
        # As if the loss cost nothing, but for the one evaluation that is to be timed.
        beside = costs.of(FEWEST_LAST, 0, coarse, at_end=at_end) + (costs.per_batch or 0.0)
        return Part(half, whole.n_examples) if half < n and beside < seconds < least else None

    def use(self, part: Part, timing: Timing) -> None:
        """Use a part from now on if that is possible, and none at all if it is not."""
        if not timing.allows(part):
            self.keep_whole()
            return
        self.part, self._costs.per_batch = part, timing.seconds

    def keep_whole(self) -> None:
        """Use no part of a batch in the rest of the run."""
        if self.of_whole is not None and math.isfinite(self.of_whole.seconds):
            self._costs.per_batch = self.of_whole.seconds
        self.part = self.of_whole = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in plain containers."""
        given = {"part": self.part, "of_whole": self.of_whole}
        return {"batches": self.batches, **{k: v and list(astuple(v)) for k, v in given.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        self.batches = state["batches"]
        # Earlier checkpoints have neither.
        part, of_whole = state.get("part"), state.get("of_whole")
        self.part = Part(*part) if part else None
        self.of_whole = Timing(*of_whole) if of_whole else None

    @property
    def _fewest(self) -> int:
        return self._settings.most_samples or FEWEST_AUTO

    @property
    def _fewest_at_end(self) -> int:
        return self._settings.most_samples or FEWEST_LAST

    @property
    def _usual(self) -> int:
        return self._settings.most_samples or USUAL_SAMPLES

    def _is_coarse(self, limit: float) -> bool:
        """Whether the usual number of samples takes longer than so many seconds on all cells.

        Boxes inside make up for coarse cells, and nothing for too few samples.
        """
        for_usual = self._costs.of(self._usual, self._n_batches(), False)
        return self._settings.may_coarsen and for_usual > limit

    def _n_batches(self) -> int:
        return self._settings.probe_batches if self.batches is None else self.batches

    def _sized(self, most: int, coarse: bool, in_background: bool = False) -> Portion:
        whole, n = self.whole(), self._n_batches()
        cells = self._settings.coarse_cells if coarse else whole.resolution
        seconds = self._costs.of(most, n, coarse, in_background=in_background)
        usual = most
        if self._settings.most_samples is None:
            usual = max(self._fewest, int(SHARE_FOR_PICTURE * most))
        usual = min(whole.usual, usual, most)
        return Portion(usual, most, n, cells, seconds, self.part, in_background)

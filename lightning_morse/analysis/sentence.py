"""The one sentence on top: what training is doing, in plain words, and what to do about it.

It is made of a result alone, by :func:`sentence`, and is the same in figures, tab, report and
terminal. "Certainly" is with the confidence asked for; losses that were not measured are "about".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.analysis.verdict import Verdict, verdict
from lightning_morse.facts import LIKELY_KINKED
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import percent

SIDES = ("lower", "upper")
# Morse sets named in a sentence; more are counted.
_MOST_NAMED = 3
# Faces of the box named in one: more are nearly all of them, and say no more than that it leaves.
_MOST_FACES = 2
# What is still to gain is next to nothing if it is this share of the barrier: the walls around.
# Where there is no pass in the box, of the usual height in it.
_NEXT_TO_NOTHING = 0.01
# A loss of less than this share of that at the beginning is all but gone.
_ALL_BUT_GONE = 1e-3
# From here on nearly all of the picture is hatched, which has to be explained.
_NEARLY_ALL = 0.9
# That the flow goes on at first is worth saying from this share of the way there on.
_FAR_ENOUGH = 0.25

_ROUGH = (
    "the loss is too rough here for the model fitted to it. More probe batches (probe_batches) may "
    "smooth it; more samples alone may not help"
)
_CONTRADICTED = "the runs contradict the model fitted to them. More recorded runs may help"


def sentence(
    result: MorseAnalysis,
    point: ArrayLike | None = None,
    axes: Sequence[str] | None = None,
    loss_now: float | None = None,
    reach: float | None = None,
    since: int | None = None,
    *,
    loss_before: float | None = None,
    time_was_up: bool = False,
) -> str:
    """Say what training is doing, and what to do where there is something to do.

    Args:
        result: The analysis, of any dimension.
        point: The current weights in the slice, shape ``(d,)``; without them the sentence is about
            the box.
        axes: One label per axis; what is in parentheses at their ends is left out.
        loss_now: The loss at the point; None or NaN if it is unknown.
        reach: How far training has come in the slice, to compare the way ahead with; units of the
            slice.
        since: Step of the first analysis in this basin since which none that was decided found
            training elsewhere; None if this is the first.
        loss_before: The loss where training began; None if it is unknown.
        time_was_up: Whether there would have been more samples if there had been time.

    Returns:
        One sentence, and maybe a second with advice.

    Raises:
        ValueError: If the point does not match the box.
    """
    if point is None:
        return _about_the_box(result)
    given = axes, loss_now, reach, since, loss_before, time_was_up
    told = _Telling(result, verdict(result, point), *given)
    kinds = {
        "basin": told.in_a_basin,
        "descends": told.descends,
        "diverges": told.diverges,
        "undecided": told.is_undecided,
        "outside": told.is_outside,
        "diverged": told.diverged,
    }
    return kinds[told.found.kind]()


@dataclass(frozen=True, eq=False)
class _Telling:
    """What is told of a point; arguments of :func:`sentence`."""

    result: MorseAnalysis
    found: Verdict
    axes: Sequence[str] | None
    loss_now: float | None
    reach: float | None
    since: int | None
    loss_before: float | None
    time_was_up: bool

    def in_a_basin(self) -> str:
        found, number = self.found, self.found.attractor
        assert number is not None, "a point in a basin is in that of an attractor"
        said = f"Certainly in the basin of attractor {number}"
        if self.since is not None:
            said += f", as in all decided analyses since step {self.since:,}"
        if self.result.morse_sets[number].wall is not None:
            said += ", a well that may hold more than one minimum"
        gain = math.nan
        if not _known(found.loss):
            return f"{said}.{self._rest()}"
        barrier = self.result.barrier(number)
        facts = [f"floor at loss {self._loss()}"]
        if self.loss_now is not None and _known(self.loss_now):
            gain = self.loss_now - found.loss
            above = f"{gain:.3g} above its floor of {self._loss()}"
            facts = [above if gain > 0 else f"at its floor, loss {self.loss_now:.3g}"]
        how_sure = self._how_sure(number)
        if math.isnan(barrier):
            facts.append("no pass out of it in this box")
            barrier = self._usual_height(found.loss)
        else:
            height = f"barrier {how_sure}{barrier:.3g}"
            facts.append(height if barrier else "barrier not known")
        return f"{said}: {', '.join(facts)}.{_advice(gain, barrier, not how_sure)}{self._rest()}"

    @property
    def _finite_losses(self) -> Array:
        losses = self.result.sample_losses
        return losses[np.isfinite(losses)]

    def _usual_height(self, floor: float) -> float:
        """How far the losses sampled in the box lie above a floor, in the median."""
        losses = self._finite_losses
        return float(np.median(losses)) - floor if losses.size else math.nan

    def _how_sure(self, number: int) -> str:
        """How sure the barrier of an attractor is, in words before its height; empty if it is.

        Where another attractor lies below a pass that is resolved there is a saddle between the
        two. Otherwise that place may hold none.
        """
        result, lowest = self.result, self.result.lowest_pass(number)
        if lowest is not None and not result.morse_sets[lowest].resolved:
            by_wall = result.morse_sets[number].wall is not None
            return "at least " if by_wall else "perhaps "
        below = set() if lowest is None else nx.descendants(result.graph, lowest)
        return "" if below & set(result.attractors) - {number} else "at least "

    def _rest(self) -> str:
        """Why nearly all of a picture is hatched although the weights are decided."""
        if self.result.undecided < _NEARLY_ALL:
            return ""
        more = _more(self.result, self.time_was_up).replace(" may", " may tell more")
        return f" Nearly all of the box is undecided otherwise; {more}."

    def descends(self) -> str:
        found = self.found
        said = "Still moving" if self.result.is_map else "Still descending"
        faces = found.faces if found.face is None else (found.face,)
        said += f": leaves{self._through(faces) or ' the box'}"
        if _known(found.loss):
            said += f" at loss {self._loss()}"
        said += self._now
        way = "and settles nowhere on the way"
        if found.distance is not None and self.reach:
            way += f", {found.distance / self.reach:.2g} times as far as training came"
        return f"{said}, {way}.{self._all_but_gone() or ' Go on training.'}{self._rest()}"

    def diverges(self) -> str:
        return (
            "Still descending: comes to where the loss diverged (infinite, NaN or an error) or "
            f"next to it{self._now}. Look for what diverges there."
        )

    @property
    def _now(self) -> str:
        """The loss at the weights, after a comma; empty if it is unknown."""
        return f", now {self.loss_now:.3g}" if _known(self.loss_now) else ""

    def is_undecided(self) -> str:
        """Why it is undecided, after what is certain of the way to begin with."""
        if self.found.reason == "unknown":
            return "Undecided; a file of this age does not say why."
        why, more = self._why_undecided()
        # Where next to nothing is left, nobody needs to know more.
        said = f"{why}.{self._all_but_gone() or more + self._seen()}"
        goes = self.found.goes
        if goes is None or not self.reach or goes < _FAR_ENOUGH * self.reach:
            return f"Undecided: {said}"
        far = f"at least {_rounded_down(goes / self.reach)} times as far as training has come"
        return f"Certainly goes on descending at first, {far}; where it ends is undecided: {said}"

    def _why_undecided(self) -> tuple[str, str]:
        """Why it is undecided, and a sentence on what may tell, after a space."""
        found, data = self.found, _data(self.result)
        if found.reason == "refuted":
            return (_CONTRADICTED if self.result.is_map else _ROUGH), ""
        if found.reason == "unexplored":
            rest = f", or settle in {_sets(found.sets, 'or')}" if found.sets else ""
            why, more = f"it may come to where {data} say too little{rest}", _more(self.result)
        elif found.reason == "edge":
            through = self._through(found.faces)
            sets = _sets(found.sets, "or")
            why = f"at the edge of the box, it may leave{through} or settle in {sets}"
            more = "a larger box (extent) may tell"
        elif found.reason == "unresolved":
            which = _sets(found.unresolved, "or")
            each = "each" if len(found.unresolved) > 1 else "it"
            holds = f"{each} holds {_goal(self.result)}"
            why = f"it may settle in {which}, and {data} cannot tell whether {holds}"
            more = _to_count(self.result, self.time_was_up)
        else:
            why = f"{data} cannot tell whether it settles in {_sets(found.sets, 'or')}"
            more = _more(self.result, self.time_was_up)
        return why, f" {_sentence(more)}"

    def _seen(self) -> str:
        """What can be said of the loss where nothing is certain of the flow."""
        losses = self._finite_losses
        if self.result.is_map or not losses.size or not _known(self.loss_now):
            return ""
        lowest, now = f"{losses.min():.3g}", f"{self.loss_now:.3g}"
        if losses.min() >= self.loss_now or lowest == now:
            return f" No loss seen here is lower than that at the weights, {now}."
        return f" The lowest loss seen here is {lowest}; at the weights it is {now}."

    def _all_but_gone(self) -> str:
        """That next to nothing of the loss is left, after a space; empty where more may be."""
        losses, now, before = self._finite_losses, self.loss_now, self.loss_before
        if not losses.size or losses.min() < 0 or not (_known(now) and _known(before)):
            return ""
        if not 0 <= now < _ALL_BUT_GONE * before:
            return ""
        return (
            f" Unless the loss can be negative, next to nothing is left to gain: it is {now:.3g}, "
            f"and was {before:.3g} where training began."
        )

    def is_outside(self) -> str:
        return "Outside the box, where nothing is known. A larger box (extent) would hold it."

    def diverged(self) -> str:
        if self.result.is_map:
            return "The runs say too little here. More recorded runs may help."
        return (
            "The loss diverged here or next to it: infinite, NaN or an error. Lower the learning "
            "rate, and look for what diverges."
        )

    def _through(self, faces: Sequence[tuple[int, int]]) -> str:
        """Through which faces, after a space; empty where that is unknown or says nothing."""
        if not 0 < len(faces) <= _MOST_FACES:
            return ""
        return f" through {_listed([self._face(f) for f in faces], 'or')}"

    def _face(self, face: tuple[int, int]) -> str:
        axis, side = face
        name = f"axis {axis}" if self.axes is None else self.axes[axis].partition(" (")[0]
        return f"{name} ({SIDES[side]})"

    def _loss(self) -> str:
        loss = self.found.loss
        assert loss is not None, "it is told of where it is known"
        if self.found.loss_deviation == 0:
            return f"{loss:.3g}"
        # The mean of a loss that may not be negative falls a little below zero where it vanishes.
        lowest = self._finite_losses.min(initial=math.inf)
        return "about 0" if loss < 0 <= lowest < math.inf else f"about {loss:.3g}"


def _advice(gain: float, barrier: float, is_known: bool) -> str:
    """What the loss still to gain and the way out suggest; empty for nothing.

    Args:
        gain: Loss still to gain.
        barrier: Height of the way out, or a lower bound on it; of what is around if there is none.
        is_known: Whether it is no bound.
    """
    if is_known and barrier > 0 and gain >= barrier:
        return " That is higher than the way out: training may still leave. Go on."
    if gain <= 0 or (barrier > 0 and gain <= _NEXT_TO_NOTHING * barrier):
        return (
            " Next to nothing is left to gain in this slice: stop, or lower the learning rate if "
            "the loss still jumps."
        )
    return ""


def _about_the_box(result: MorseAnalysis) -> str:
    """The sentence where there are no current weights."""
    n, is_map = result.n_attractors, result.is_map
    if all(box.calibration >= PLAINLY_WRONG for box in result.boxes):
        return f"Nothing is certain: {_CONTRADICTED if is_map else _ROUGH}."
    more, unresolved = _sentence(_to_count(result)), result.n_unresolved
    if not n and unresolved:
        one, several = _goal(result), _goals(result)
        places = (
            f"one place holds {one}" if unresolved == 1 else f"{unresolved} places hold {several}"
        )
        return f"No certain attractor: {_data(result)} cannot tell whether {places}. {more}"
    if not n and not result.is_exact:
        share = percent(float(result.diverged.mean()))
        where = "anywhere" if result.diverged.all() else f"in {share} of the box"
        return f"No certain attractor: the runs say too little {where}. {more}"
    if not n:
        whole = result.escape == 1 and not result.diverged.any()
        leaves = "everything leaves the box" if whole else _shares(result)
        return f"No attractor: {leaves}. A larger box may hold one."
    share = percent(sum(result.basin_volumes.values()))
    whose = "attractor 0" if n == 1 else f"one of {n} attractors"
    said = f"{share} of the box certainly leads to {whose}, {_shares(result)}."
    if not unresolved:
        return said
    places = "1 place" if unresolved == 1 else f"{unresolved} places"
    goal = _goal(result).partition(" ")[2]
    return f"{said} {places} may hide a further {goal}. {more}"


def _shares(result: MorseAnalysis) -> str:
    has_diverged = not result.is_map and result.diverged.any()
    leaves = "leaves it or comes to where the loss diverged" if has_diverged else "leaves it"
    return f"{percent(result.escape)} {leaves}, {percent(result.undecided)} is undecided"


def _more(result: MorseAnalysis, time_was_up: bool = False) -> str:
    """What would help where more must be known."""
    if result.is_map:
        return "more recorded runs may"
    if time_was_up:
        return "more time for its samples may (a larger max_overhead)"
    n = 2 * len(result.samples)
    return f"{n} samples may (n_samples={n})"


def _to_count(result: MorseAnalysis, time_was_up: bool = False) -> str:
    """What would help to tell which sets hold minima."""
    if result.evidence is not None and result.evidence.kinked > LIKELY_KINKED:
        return (
            "the loss seems to have kinks, where minima cannot be counted; more probe batches "
            "(probe_batches) may smooth it"
        )
    return _more(result, time_was_up)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _data(result: MorseAnalysis) -> str:
    """What the analysis knows its object from."""
    return "the runs" if result.is_map else f"{len(result.samples)} samples"


def _goal(result: MorseAnalysis) -> str:
    """What an unresolved Morse set may hold: of a map it need not be a minimum of anything."""
    return "an attractor" if result.is_map else "a minimum"


def _goals(result: MorseAnalysis) -> str:
    return "attractors" if result.is_map else "minima"


def _sets(numbers: Sequence[int], word: str) -> str:
    if len(numbers) > _MOST_NAMED:
        return f"one of {len(numbers)} sets"
    return f"set{'s'[: len(numbers) != 1]} {_listed([str(i) for i in numbers], word)}"


def _listed(names: Sequence[str], word: str) -> str:
    *most, last = names or [""]
    return f"{', '.join(most)} {word} {last}" if most else last


def _rounded_down(number: float) -> str:
    """A positive number to two digits, no larger than it is."""
    digits = 1 - math.floor(math.log10(number))
    return f"{math.floor(number * 10.0**digits) / 10.0**digits:.2g}"


def _known(loss: float | None) -> TypeGuard[float]:
    return loss is not None and bool(np.isfinite(loss))

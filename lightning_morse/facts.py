"""Facts about the surrogate behind a result, as it keeps them and as a file stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

# Probability of kinks up to which critical points are counted: an exact number is then worth little
# less than "at least".
LIKELY_KINKED = 0.1


@dataclass(frozen=True)
class SurrogateFacts:
    """Facts about the Gaussian process that was fitted to a loss.

    The process is fitted to the warped loss ``T(l)``; see :mod:`lightning_morse.gp.warp`.

    Attributes:
        kernel: Name of the kernel.
        n: Number of samples it was fitted to, those at which the loss is finite.
        lengthscales: One per axis, units of the box.
        mean: Constant prior mean, units of the warped loss.
        deviation: Prior deviation, calibration included, units of the warped loss.
        noise_deviation: Deviation of the noise of a sample, same units.
        loss_origin: Loss at which the warp has value 0 and slope 1.
        loss_floor: Loss that the warp supposes is never reached; None where there is no warp.
        log_evidence: Log marginal likelihood of the losses.
        largest_residual: Largest standardised leave-one-out residual, before calibration.
        largest_held_out: Largest standardised error of a held-out directional derivative, before
            calibration; 0 if there was none.
        band_deviations: Half-width of the gradient's band, in deviations of the posterior.
        leaves: Number of parts of the box with processes of their own; the other facts are those
            of the one whose deviations were raised most.
    """

    kernel: str
    n: int
    lengthscales: tuple[float, ...]
    mean: float
    deviation: float
    noise_deviation: float
    loss_origin: float
    loss_floor: float | None
    log_evidence: float
    largest_residual: float
    largest_held_out: float
    band_deviations: float
    leaves: int = 1


@dataclass(frozen=True)
class Evidence:
    """How far the samples bear out the model that claims rest on.

    See :mod:`lightning_morse.analysis.evidence` for the rule and what it supposes.

    Attributes:
        n_predicted: How many losses were predicted before they were used.
        n_places: As how many predictions at random places they count; at most as many.
        n_surprises: How many of them the model had excluded.
        mu_model: Bound on the probability of the claim given the model.
        finest: Width of the narrowest well that the samples would have shown with probability
            0.95, as a share of the width of the box.
        kinked: Probability that the loss has kinks where an exact number of attractors rests on a
            count of critical points, which is none then (:mod:`lightning_morse.gp.kinks`). Where
            it is over :data:`LIKELY_KINKED` they were not counted, and the number is a lower bound.
    """

    n_predicted: int
    n_places: int
    n_surprises: int
    mu_model: float
    finest: float
    kinked: float = 0.0

    @property
    def adequacy(self) -> float:
        """Probability that the model is adequate, by the rule of succession.

        Example:
            >>> Evidence(120, 98, 0, 1.0, 0.1).adequacy, Evidence(0, 0, 0, 1.0, 1.0).adequacy
            (0.99, 0.5)
        """
        return (max(0, self.n_places - self.n_surprises) + 1) / (self.n_places + 2)


@dataclass(frozen=True)
class MapFacts:
    """Facts about the map that was learnt from trajectories, and about its Morse sets.

    There is one Gaussian process per coordinate, fitted to the displacement over ``lag`` steps.
    With many pairs the box is cut into leaves with processes of their own
    (:mod:`lightning_morse.trajectories.local_map`); hyper-parameters are then medians over the
    leaves that are not void.

    Attributes:
        kernel: Name of the kernel.
        n: Number of pairs of states it was fitted to, those that start in the box.
        n_outside: Number of pairs that start outside.
        n_runs: Number of runs that the pairs come from.
        cut_runs: Names of the runs that were used up to a state that is not finite.
        lag: Number of steps the map stands for.
        lengthscales: One per coordinate and axis, units of the states.
        mean: Constant prior mean of each displacement.
        deviation: Prior deviation of each displacement.
        noise_deviation: Deviation of the noise of a step, per coordinate.
        noise: ``"mean"`` or ``"steps"``: what the boxes hold.
        step_level: Probability with which they hold a single noisy step; None for ``"mean"``.
        factors: Factor by which the deviations of each process were inflated, the largest of all
            leaves that are not void.
        band_deviations: Half-width of the band, in deviations of the posterior.
        band_between: Half-width added to the band between lattice points, per coordinate; the
            largest of all leaves.
        periods: Period of each Morse set.
        betti: Betti numbers of an index pair of each Morse set; None where the box is left.
        unknown: Share of the box in which the pairs say too little, void leaves included.
        leaves: Number of leaves.
        void: Share of the box in leaves that are void: the pairs in them refute their processes.
    """

    kernel: str
    n: int
    n_outside: int
    n_runs: int
    cut_runs: tuple[str, ...]
    lag: int
    lengthscales: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    noise_deviation: tuple[float, ...]
    noise: str
    step_level: float | None
    factors: tuple[float, ...]
    band_deviations: float
    band_between: tuple[float, ...]
    periods: tuple[int, ...]
    betti: tuple[tuple[int, ...] | None, ...]
    unknown: float
    leaves: int = 1
    void: float = 0.0


Facts = SurrogateFacts | MapFacts

# Names that facts had in earlier files.
_EARLIER_NAMES = {"largest_held_back": "largest_held_out"}
_Record = TypeVar("_Record", SurrogateFacts, MapFacts)


def stored(facts: Facts | None) -> dict[str, Any] | None:
    """The facts as plain containers, to be written as JSON."""
    return None if facts is None else dataclasses.asdict(facts)


def restored(raw: Mapping[str, Any] | None) -> Facts | None:
    """Facts as they were given to :func:`stored`, by this version or an earlier one.

    Args:
        raw: A mapping read from JSON; None or empty if nothing was known.

    Raises:
        ValueError: If a fact is missing or unknown.
    """
    if not raw:
        return None
    given = {name: _tuples(value) for name, value in with_names_of_today(raw).items()}
    return _record(MapFacts, given) if "periods" in given else _record(SurrogateFacts, given)


def with_names_of_today(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of an earlier file, under the names they have now."""
    return {_EARLIER_NAMES.get(name, name): value for name, value in raw.items()}


def _record(kind: type[_Record], given: Mapping[str, Any]) -> _Record:
    # Facts that earlier versions did not know have a default.
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    expected = {name for name, default in known.items() if default is dataclasses.MISSING}
    if not expected <= set(given) <= set(known):
        raise ValueError(
            f"its facts about the surrogate lack {sorted(expected - set(given))} and have "
            f"{sorted(set(given) - set(known))} besides"
        )
    return kind(**given)


def _tuples(value: Any) -> Any:
    """Lists of JSON, at any depth, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

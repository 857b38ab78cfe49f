"""The end of an analysis: draw and describe, once the loss has been evaluated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Loss, Mask
from lightning_morse.analysis import drawing, surrogates
from lightning_morse.analysis.charts import Chart
from lightning_morse.analysis.confidences import confidences
from lightning_morse.analysis.description import (
    CriticalPoints,
    critical_points,
    describe,
    reading_order,
)
from lightning_morse.analysis.edges import faces_left_through
from lightning_morse.analysis.evidence import evidence_for
from lightning_morse.analysis.measurement import measured, measured_way, supported, way_out
from lightning_morse.analysis.patchwork import AnyChart
from lightning_morse.analysis.phase_portrait import PhasePortrait, phase_portrait, with_well
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.sharpness import curvature_at, with_curvatures
from lightning_morse.analysis.surrogates import Model, worst_of
from lightning_morse.analysis.tower import Tower
from lightning_morse.analysis.wells import Well
from lightning_morse.conley.basins import escaping_volumes, reach_of_cells
from lightning_morse.conley.reach import Reach
from lightning_morse.facts import Evidence, SurrogateFacts
from lightning_morse.gp.process import GaussianProcess, SurrogateError, Values
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import Box, Ladder, MorseAnalysis, WayOut
from lightning_morse.stopwatch import Stopwatch, one_thread


@dataclass(frozen=True, eq=False)
class Measuring:
    """How losses that are reported are measured.

    Attributes:
        loss: The loss.
        most: Most evaluations of the analysis in all.
    """

    loss: Loss
    most: int


@dataclass(frozen=True, eq=False)
class Final:
    """The portrait that claims rest on.

    Attributes:
        models: The judged surrogates, one for each box.
        portrait: What they say on the grids asked for.
    """

    models: list[Model]
    portrait: PhasePortrait


def final_portrait(tower: Tower, clock: Stopwatch, point: Array | None = None) -> Final:
    """Fit the surrogates to all samples, and draw the portrait on the grids asked for.

    Where it is undecided what becomes of the point, or without one nothing attracts for certain, a
    well is looked for around it, or around the lowest sample.

    Args:
        tower: The boxes and their samples, judged.
        clock: Wall times so far; the stages add theirs.
        point: The point that the analysis is asked about, shape ``(d,)``.

    Raises:
        SurrogateError: If the loss is not finite at any sample, or no surrogate can be trusted.
    """
    settings = tower.settings
    nested = tower.nested(settings.grid)
    models, charts = [], []
    with one_thread():
        for k, share in enumerate(drawing.shares(tower, final=True)):
            with clock("fit"):
                model = surrogates.fitted(tower, k)
                surrogates.ask_for_kinks(tower, k)
            models.append(model)
            charts.append(drawing.chart_of(tower, k, nested.grids[k], float(share), clock))
        failure = settings.failure_beside_band
        portrait = phase_portrait(nested, charts, failure, clock)
        if point is None and not portrait.found.attractors:
            point = tower.lowest
        if point is not None and not portrait.is_decided(point):
            portrait = _held_at(tower, portrait, point, clock)
        return Final(models, portrait)


def _held_at(
    tower: Tower, portrait: PhasePortrait, point: Array, clock: Stopwatch
) -> PhasePortrait:
    """The portrait with a well around a point, from the innermost box that shows one.

    Where several attractors are known in the well the portrait stays as it is, and where it is
    certain that there are no others: it says more.
    """
    nested, settings = portrait.nested, tower.settings
    if portrait.is_exact:
        return portrait
    around = [k for k, grid in enumerate(nested.grids) if grid.cell_of(point[None])[0] >= 0]
    for k in reversed(around):
        with clock("map"):
            chart = portrait.charts[k]
            finest = nested.grids[around[-1]]
            survey = (
                drawing.survey(tower, k, point, chart, finest) if isinstance(chart, Chart) else None
            )
            well = None if survey is None else survey.well(k)
        if well is not None:
            failure = settings.failure_beside_band - settings.failure_of_well
            found = with_well(portrait, well, failure, clock)
            known = len(portrait.found.attractors)
            if found.well is not None and len(found.found.attractors) >= known:
                return found
    return portrait


def conclude(
    tower: Tower,
    final: Final,
    clock: Stopwatch,
    measuring: Measuring | None = None,
    start: Array | None = None,
) -> MorseAnalysis:
    """Describe the final portrait: all that is done once nothing is sampled for it any more.

    Args:
        tower: The boxes and their samples.
        final: The portrait of all of them.
        clock: Wall times so far; the stages add theirs.
        measuring: How to measure losses that are reported; None where the loss is not at hand.
        start: The point that the analysis was asked about, shape ``(d,)``, if any.

    Raises:
        SurrogateError: If a number that a claim rests on has left the range of floats.
    """
    settings, models, portrait = tower.settings, final.models, final.portrait
    with one_thread(), clock("record"):
        located = critical_points(portrait)
        way = None if start is None else way_out(portrait, start)
    located, way, extra = _measure(tower, portrait, located, way, measuring, clock)
    with one_thread():
        with clock("record"):
            portrait, located, reach = _in_reading_order(portrait, located)
            faces = faces_left_through(portrait)
        with clock("ladder"):
            ladder, each, together, evidence = _confidences(portrait, tower, models)
        with clock("record"):
            sets = describe(portrait, located, evidence.adequacy * each)
            sets = with_curvatures(portrait, sets, settings.confidence)
            here = None if start is None else curvature_at(portrait, start, settings.confidence)
            boxes = [
                _box(tower, portrait, model, reach, faces, k) for k, model in enumerate(models)
            ]
            if portrait.well is not None and not portrait.well.held.all():
                boxes.append(_close_up(portrait, portrait.well, boxes))
    everything = tower.everything.followed_by(tower.left_out.points, tower.left_out.losses)
    root, everything = boxes[0], everything.followed_by(extra.points, extra.losses)
    return MorseAnalysis(
        grid=root.grid,
        morse_sets=sets,
        graph=portrait.found.graph,
        labels=root.labels,
        diverged=root.diverged,
        exit_volumes=_exit_volumes(portrait, faces),
        # A lower bound on the number of attractors rests on the band alone.
        mu=evidence.adequacy * together * (1 - evidence.kinked if portrait.is_exact else 1.0),
        confidence=settings.confidence,
        mean_loss=root.mean_loss,
        samples=everything.points,
        sample_losses=everything.losses,
        calibration=root.calibration,
        surrogate=root.surrogate,
        seconds=dict(clock.seconds),
        ladder=ladder,
        loss_deviation=root.loss_deviation,
        reach=root.reach,
        inner=tuple(boxes[1:]),
        faces=root.faces,
        way_out=way,
        n_measured=len(extra),
        evidence=evidence,
        curvature=here,
    )


def _in_reading_order(
    portrait: PhasePortrait, located: CriticalPoints
) -> tuple[PhasePortrait, CriticalPoints, Reach]:
    """Portrait and critical points in the order to be reported, and what cells may reach."""
    order = reading_order(portrait, located.losses)
    reach = reach_of_cells(portrait.found, {old: new for new, old in enumerate(order)})
    return portrait.renumbered(order), located.renumbered(order), reach


def _confidences(
    portrait: PhasePortrait, tower: Tower, models: list[Model]
) -> tuple[Ladder, Array, float, Evidence]:
    """The ladder, the bounds for each attractor and for all given the model, and its evidence."""
    ladder, each, together = confidences(portrait, tower)
    if not (np.isfinite(each).all() and math.isfinite(together)):
        raise SurrogateError("a bound on a probability has left the range of floats")
    bands = [max(patch.chart.band.c for patch in one.patches) for one in portrait.charts]
    evidence = evidence_for(tower, models, bands, together)
    return ladder, each, together, dataclasses.replace(evidence, kinked=portrait.kinked)


def _measure(
    tower: Tower,
    portrait: PhasePortrait,
    located: CriticalPoints,
    way: WayOut | None,
    measuring: Measuring | None,
    clock: Stopwatch,
) -> tuple[CriticalPoints, WayOut | None, Samples]:
    """Losses that are reported, where they can be evaluated; and the evaluations."""
    dim = portrait.nested.dim
    extra = Samples(np.empty((0, dim)), np.empty(0))
    if measuring is not None:
        room = measuring.most - tower.n_samples
        with clock("loss"):
            if way is not None and room > 0:
                way, extra = measured_way(measuring.loss, way)
            located, found = measured(measuring.loss, portrait, located, room - len(extra))
        extra = extra.followed_by(found.points, found.losses)
    seen = tower.everything.followed_by(extra.points, extra.losses).finite
    is_attractor = np.isin(np.arange(len(located.losses)), portrait.found.attractors)
    return supported(located, is_attractor, float(seen.losses.min())), way, extra


def _exit_volumes(portrait: PhasePortrait, faces: Mask) -> Array:
    """Fraction of the box that escapes and can do so through each face of the outermost box."""
    volumes = portrait.nested.volumes if len(portrait.nested.grids) > 1 else None
    return escaping_volumes(faces, portrait.labels, volumes=volumes)


def _box(
    tower: Tower, portrait: PhasePortrait, model: Model, reach: Reach, faces: Mask, k: int
) -> Box:
    """What is recorded of one box."""
    nested, of_box = portrait.nested, portrait.charts[k]
    mean, deviation = _losses_of(of_box)
    own = _reach_on_grid(portrait, reach, k)
    sets = _sets_on_grid(portrait, k)
    return Box(
        grid=nested.grids[k],
        parent=nested.parents[k],
        labels=own.labels(portrait.found.attractors),
        diverged=of_box.diverged,
        mean_loss=mean,
        loss_deviation=deviation,
        calibration=worst_of(model).factor,
        surrogate=_facts(model, of_box),
        reach=own,
        sets=sets,
        n_samples=len(tower.boxes[k].samples),
        faces=nested.on_grid(k, faces, np.logical_or),
    )


def _close_up(portrait: PhasePortrait, well: Well, boxes: list[Box]) -> Box:
    """A record of the cell of the point in a well, in parts, of which some lie in it."""
    lattice, grid = well.near.lattice, well.near.lattice.grid
    center = 0.5 * (grid.lower + grid.upper)
    parent = max(k for k, box in enumerate(boxes) if box.grid.cell_of(center[None])[0] >= 0)
    around, cell = boxes[parent], int(boxes[parent].grid.cell_of(center[None])[0])
    number = portrait.well_number
    assert around.reach is not None, "boxes of an analysis say what cells may reach"
    assert around.faces is not None, "and through which faces they may leave"
    assert around.sets is not None, "and which Morse set meets them"
    otherwise = around.reach.kinds[around.reach.of[cell]]
    kinds = np.stack([np.arange(len(otherwise)) == number, otherwise])
    surrogate = portrait.charts[parent].at(center).surrogate
    mean, deviation = _losses_on_grid(surrogate, surrogate.lattice_values(lattice.axes), lattice)
    return dataclasses.replace(
        around,
        grid=grid,
        parent=parent,
        labels=np.where(well.held, number, around.labels[cell]).astype(np.int32),
        diverged=np.zeros(grid.size, dtype=bool),
        mean_loss=mean,
        loss_deviation=deviation,
        reach=Reach(kinds, np.where(well.held, 0, 1).astype(np.int32)),
        sets=np.full(grid.size, around.sets[cell], dtype=np.int32),
        faces=~well.held[:, None, None] & around.faces[cell],
        n_samples=0,
    )


def _reach_on_grid(portrait: PhasePortrait, reach: Reach, k: int) -> Reach:
    """What the cells of one grid may reach; a covered cell may reach what any cell in it may."""
    nested = portrait.nested
    if len(nested.grids) == 1:
        return reach
    answers = nested.on_grid(k, reach.kinds[reach.of], np.logical_or)
    kinds, of = np.unique(answers, axis=0, return_inverse=True)
    return Reach(kinds, of.ravel().astype(np.int32))


def _sets_on_grid(portrait: PhasePortrait, k: int) -> NDArray[np.int32]:
    """Number of a Morse set that meets each cell of one grid, -1 for none."""
    owner = np.full(portrait.nested.size, -1, dtype=np.int32)
    for number, cells in enumerate(portrait.found.morse_sets):
        owner[cells] = number
    return portrait.nested.on_grid(k, owner, np.maximum)


def _losses_of(chart: AnyChart) -> tuple[Array, Array]:
    """The same for all parts of a grid."""
    shape = tuple(n + 1 for n in chart.grid.shape)
    mean, deviation = np.empty(shape), np.empty(shape)
    for patch in chart.patches:
        one, (there, own) = patch.chart, patch.corners
        found = _losses_on_grid(one.surrogate, one.posterior, one.lattice)
        for out, values in zip((mean, deviation), found, strict=True):
            out.ravel()[there] = values.ravel()[own]
    return mean, deviation


def _losses_on_grid(
    surrogate: GaussianProcess, values: Values, lattice: Lattice
) -> tuple[Array, Array]:
    """Mean of the loss at the vertices of the grid and its deviation, to first order."""
    warp, corners = surrogate.warp, lattice.grid_corners
    deviation = values.deviation * warp.inverse_slope(values.mean)
    return warp.inverse(corners(values.mean)), corners(deviation)


def _facts(model: Model, chart: AnyChart) -> SurrogateFacts:
    calibrated = worst_of(model)
    surrogate = calibrated.surrogate
    floor = surrogate.warp.floor
    return SurrogateFacts(
        kernel=surrogate.kernel.name,
        n=len(surrogate.y),
        lengthscales=tuple(surrogate.lengthscales.tolist()),
        mean=surrogate.mean,
        deviation=math.sqrt(surrogate.variance),
        noise_deviation=math.sqrt(surrogate.variance * surrogate.noise),
        loss_origin=surrogate.warp.origin,
        loss_floor=floor if math.isfinite(floor) else None,
        log_evidence=surrogate.log_evidence,
        largest_residual=calibrated.largest_residual,
        largest_held_out=calibrated.largest_held_out,
        band_deviations=max(patch.chart.band.c for patch in chart.patches),
        leaves=len(chart.patches),
    )

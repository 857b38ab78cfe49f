"""An analysis from beginning to end: from a loss on a box to its Morse graph, basins and mu.

1. A design fills the box, and the loss is evaluated there (:func:`analyze`).
2. A surrogate is fitted and a coarse phase portrait drawn; unless that is resolved, the loss is
   evaluated where the portrait is undecided, in smaller boxes too, and so on
   (:mod:`lightning_morse.analysis.exploration`).
3. A few evaluations beside others are held out as directional derivatives.
4. The final surrogates are fitted, judged by the held-out derivatives, and drawn on the full grids;
   their attractors are followed to wider bands (:mod:`lightning_morse.analysis.conclusion`). What
   is left of the evaluations measures losses (:mod:`lightning_morse.analysis.measurement`).

All of it in a frame in which box and losses are of order one (:mod:`lightning_morse.result.frame`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Loss
from lightning_morse.analysis.conclusion import Measuring, conclude, final_portrait
from lightning_morse.analysis.design import design, first_samples
from lightning_morse.analysis.exploration import Explorer
from lightning_morse.analysis.framing import first_in_frame, framed
from lightning_morse.analysis.placement import is_resolved
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.question import Question, judged
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.sampling import Sampler
from lightning_morse.analysis.settings import checked_settings
from lightning_morse.analysis.tower import Tower
from lightning_morse.arguments import real_numbers
from lightning_morse.grids.cubical import check_box
from lightning_morse.result import MorseAnalysis
from lightning_morse.result.frame import Frame
from lightning_morse.stopwatch import Stopwatch


def analyze(
    loss: Loss,
    lower: ArrayLike,
    upper: ArrayLike,
    n_samples: int = 128,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
) -> MorseAnalysis:
    r"""Find the attractors of the gradient flow of a loss on a box, their basins, and how certain.

    The loss is evaluated at the centre of the box and a scrambled Sobol design, then where the
    picture is undecided (:mod:`lightning_morse.analysis.placement`). A Gaussian process is fitted,
    and the flow of every gradient field inside its simultaneous band is enclosed on a cubical grid.
    Given that the (warped) loss is a sample path of the fitted process, the following statements
    hold simultaneously with probability at least ``confidence``: each attractor reported holds an
    attractor of the gradient flow; every critical point in the box lies in a Morse set (or in a
    cell from which the exterior can be reached without meeting one); every Morse index, every
    certain basin label and every escape is right. The number of attractors holds with probability
    at least ``result.mu >= confidence``, each single attractor with ``result.morse_sets[i].mu``.
    See :mod:`lightning_morse.bands.gradient` for what is proved and what is not,
    :mod:`lightning_morse.enclosure.flow_map` for the enclosure, :mod:`lightning_morse.gp.kac_rice`
    for the indices, :mod:`lightning_morse.analysis.ladder` for ``mu``.

    Args:
        loss: Callable on ``(n, d)`` float64 tensors that returns ``(n,)``, dense and real; it need
            not be differentiable by autograd. NaN or infinity marks a point where it diverged: the
            cells nearest to such points count as exterior. Its unit does not matter.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Most loss evaluations, the centre included; at least 16. Fewer are made where the
            picture is resolved earlier. A few are kept to measure the losses that are reported
            (:mod:`lightning_morse.analysis.measurement`).
        resolution: Cells per axis: one number, or one for each axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the design, the places to sample and the simulation. No global generator is read or
            advanced.
        band: ``"proved"``, or ``"simulated"`` for one that is some 10 % narrower and rests on
            simulated sample paths (see :mod:`lightning_morse.bands.gradient`).

    Returns:
        The analysis.

    Raises:
        ValueError: If an argument is out of range, the box is so small that floats do not resolve
            its cells, or the loss returns the wrong shape or kind of numbers.
        SurrogateError: (a ``ValueError``) If the loss diverged at all or too many samples, is
            constant, or no surrogate can be trusted, or numbers leave the range of floats.

    Example:
        >>> result = analyze(lambda x: (x**2 - 1).square().sum(1), [-2.0], [2.0], n_samples=32)
        >>> result.n_attractors, [abs(round(float(m.center[0]), 2)) for m in result.morse_sets]
        (2, [1.0, 1.0, 0.0])
    """
    settings = checked_settings(lower, upper, n_samples, resolution, confidence, seed, band)
    if not callable(loss):
        raise ValueError(f"loss must be a function of points, shape (n, d), got {loss!r}")
    frame, clock = Frame.of(lower, upper), Stopwatch()
    settings = settings.within(frame)
    grid, inside = settings.grid, framed(loss, frame)
    with clock("loss"):
        points = design(grid.lower, grid.upper, first_samples(n_samples, grid.dim), seed)
        samples = first_in_frame(loss, points, frame)
    tower = Tower(settings, samples, may_be_cut=True)
    plan = Plan.of(n_samples, grid.dim, most=n_samples, for_picture=True)
    sampler = Sampler(inside, tower, plan, clock)
    explorer = Explorer(sampler)
    final = judged(sampler, lambda: explorer.complete(n_samples), is_resolved)
    return frame.in_units(conclude(tower, final, clock, Measuring(inside, n_samples)))


def analyze_from(
    loss: Loss,
    start: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    farthest: tuple[ArrayLike, ArrayLike] | None = None,
    n_samples: int = 128,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
    clock: Stopwatch | None = None,
    most: int | None = None,
    is_over: Callable[[], bool] | None = None,
) -> MorseAnalysis:
    """Analyse a loss around a point: first where the flow from it leads, then the rest of the box.

    Samples are placed on the way of the flow, and boxes opened inside and around the one given,
    until it is certain in which basin the point lies or that the flow leaves the farthest box
    (:mod:`lightning_morse.analysis.exploration`). What is left of ``n_samples`` completes the
    picture. All claims are those of :func:`analyze`.

    Args:
        loss: As in :func:`analyze`.
        start: The point, shape ``(d,)``, inside the box.
        lower: Lower corner of the box to begin with, shape ``(d,)``.
        upper: Upper corner, same shape.
        farthest: The two corners of the box that it may grow to. Then it may also become smaller,
            where a positive loss falls to next to nothing
            (:mod:`lightning_morse.analysis.vanishing`). If left out it stays as it is.
        n_samples: Loss evaluations as a rule; up to 2.5 times as many as long as the question of
            the point is open.
        resolution: As in :func:`analyze`, of the outermost box.
        confidence: As in :func:`analyze`.
        seed: As in :func:`analyze`.
        band: As in :func:`analyze`.
        clock: Wall times so far; the stages add theirs.
        most: Most loss evaluations, instead of 2.5 times ``n_samples``.
        is_over: Says that time is up: no more samples are placed, and those there are have to do.
            Asked after every evaluation, and before every choice of places.

    Returns:
        The analysis.

    Raises:
        ValueError: As :func:`analyze` does, or if the point lies outside.
    """
    given = loss, start, lower, upper, farthest, n_samples, resolution, confidence, seed
    question = begun(*given, most, is_over, band, clock)
    return question.conclude(question.decide())


def begun(
    loss: Loss,
    start: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    farthest: tuple[ArrayLike, ArrayLike] | None,
    n_samples: int,
    resolution: int | Sequence[int],
    confidence: float,
    seed: int,
    most: int | None,
    is_over: Callable[[], bool] | None,
    band: str = "proved",
    clock: Stopwatch | None = None,
) -> Question:
    """Check the arguments of :func:`analyze_from`, and fill the box with samples."""
    settings = checked_settings(lower, upper, n_samples, resolution, confidence, seed, band)
    grid, point = settings.grid, real_numbers("start", start)
    if point.shape != (grid.dim,) or grid.cell_of(point[None])[0] < 0:
        raise ValueError(
            f"start must be a point of the box from {grid.lower.tolist()} to "
            f"{grid.upper.tolist()}, got {point.tolist()}"
        )
    far = None if farthest is None else check_box(*farthest)
    plan = Plan.of(n_samples, grid.dim, most)
    return Question.of(loss, point, settings, far, plan, clock or Stopwatch(), is_over)


def analyze_samples(
    samples: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
    clock: Stopwatch | None = None,
) -> MorseAnalysis:
    """Analyse a loss of which only samples are at hand; :func:`analyze` without the evaluations.

    Args:
        samples: Where the loss was evaluated, shape ``(n, d)``.
        losses: The losses, shape ``(n,)``; not finite where the loss diverged.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        resolution: As in :func:`analyze`.
        confidence: As in :func:`analyze`.
        seed: Of the simulation.
        band: As in :func:`analyze`.
        clock: Wall times so far; the stages add theirs.

    Returns:
        The analysis.

    Raises:
        ValueError: As :func:`analyze` does.
    """
    given = _checked_samples(samples, losses, lower, upper)
    settings = checked_settings(lower, upper, len(given), resolution, confidence, seed, band)
    frame, clock = Frame.of(lower, upper), clock or Stopwatch()
    scaled = Samples(frame.points(given.points), frame.losses(given.losses))
    tower = Tower(settings.within(frame), scaled, may_be_cut=True)
    return frame.in_units(conclude(tower, final_portrait(tower, clock), clock))


def _checked_samples(
    samples: ArrayLike, losses: ArrayLike, lower: ArrayLike, upper: ArrayLike
) -> Samples:
    dim = len(check_box(lower, upper)[0])
    x, values = real_numbers("samples", samples), real_numbers("losses", losses)
    if x.ndim != 2 or x.shape[1] != dim or values.shape != x.shape[:1]:
        raise ValueError(
            f"samples must have shape (n, {dim}) and losses (n,), got {x.shape} and {values.shape}"
        )
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"samples must be finite, but row {bad} is {x[bad].tolist()}")
    return Samples(x, values)

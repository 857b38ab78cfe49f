"""The surrogates of a tower: fitted to what each box sees, and judged before they see it.

A box has one process. The outermost one, if it holds many samples, has several, each in a part of
it (:mod:`lightning_morse.analysis.leaves`).
"""

from __future__ import annotations

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis import leaves
from lightning_morse.analysis.leaves import Parts
from lightning_morse.analysis.samples import HeldOut, Samples
from lightning_morse.analysis.tower import Predicted, Tower
from lightning_morse.gp.calibration import (
    Calibrated,
    brought_up_to_date,
    check,
    inflate,
    prediction_errors,
    shows_noise,
    with_fine_structure,
)
from lightning_morse.gp.kinks import kinked_weight
from lightning_morse.gp.process import SurrogateError

Model = Calibrated | Parts


def worst_of(model: Model) -> Calibrated:
    """The surrogate of a box, or that of its parts whose deviations were raised most."""
    return model.worst if isinstance(model, Parts) else model


def factor_at(model: Model, points: Array) -> Array | float:
    """Factor by which deviations were raised at some points, shape ``(n,)``."""
    return model.factor_at(points) if isinstance(model, Parts) else model.factor


def fitted(tower: Tower, k: int) -> Model:
    """The surrogate of what a box sees, of the model chosen before if there is one; or its parts.

    Deviations are those that the last judgement calls for. Lengthscales, noise and warp are fitted
    anew only if the samples have become many more since they were.

    Raises:
        SurrogateError: If the samples determine none.
    """
    if leaves.has_leaves(tower, k):
        return leaves.parts_of(tower, lambda: _fit(tower, k))
    return inflate(_doubted(tower, k, _fit(tower, k)), *tower.boxes[k].verdict)


def sketched(tower: Tower, k: int) -> Model:
    """Surrogates that have seen all samples of a box, if not the latest of other boxes.

    Raises:
        SurrogateError: If the samples determine none.
    """
    box = tower.boxes[k]
    if leaves.has_leaves(tower, k):
        return leaves.parts_of(tower, lambda: _fit(tower, k))
    model = box.model
    if model is None or box.n_own != len(box.samples):
        model = _fit(tower, k)
    return inflate(_doubted(tower, k, model), *box.verdict)


def place(tower: Tower, k: int, points: Array, losses: Array) -> None:
    """Add samples to a box, whose surrogate, if it has one, has predicted them."""
    box, usable = tower.boxes[k], Samples(points, losses).finite
    if leaves.has_leaves(tower, k) and box.leaves is not None:
        errors = leaves.errors_of_predictions(box.leaves, usable)
        box.predicted.append(Predicted(usable.points, errors))
    elif box.model is not None:
        box.predicted.append(predicted_by(box.model, usable))
    tower.add(k, points, losses)


def predicted_by(model: Calibrated, samples: Samples) -> Predicted:
    """Predict some samples by a surrogate that has not seen them."""
    usable = samples.finite
    return Predicted(usable.points, prediction_errors(model, usable.points, usable.losses))


def judge(tower: Tower, k: int, held_out: HeldOut) -> None:
    """Judge a surrogate of all samples of a box by held-out ones before it has seen them."""
    box, usable = tower.boxes[k], held_out.finite
    box.model = None
    start, before = box.samples.points[usable.partners], box.samples.losses[usable.partners]
    if leaves.has_leaves(tower, k):
        pairs = Samples(start, before), Samples(usable.points, usable.losses)
        leaves.judge(tower, lambda: _fit(tower, k), *pairs, _typical(tower))
    else:
        model, about = _fit(tower, k), (start, usable.points, before, usable.losses)
        box.is_noisy = shows_noise(model, *about)
        largest = check(_doubted(tower, k, model), *about, _typical(tower))
        box.verdict = largest, len(usable)
    tower.add(k, held_out.points, held_out.losses)
    box.n_judged += 1


def ask_for_kinks(tower: Tower, k: int) -> None:
    """Weigh the surrogate of a box, or of each part of it, against a process with kinks.

    Raises:
        SurrogateError: If the samples determine no surrogate.
    """
    if leaves.has_leaves(tower, k):
        leaves.ask_for_kinks(tower, lambda: _fit(tower, k))
        return
    box, seen = tower.boxes[k], tower.seen_by(k).finite
    box.kinked = kinked_weight(_fit(tower, k).surrogate, seen.losses, box.lower, box.upper)


def _typical(tower: Tower) -> float:
    """Absolute value of a loss that is typical of the function."""
    return float(np.median(np.abs(tower.everything.finite.losses)))


def _doubted(tower: Tower, k: int, model: Calibrated) -> Calibrated:
    """The surrogate with what is too fine for it, unless the loss has noise."""
    box = tower.boxes[k]
    return model if box.is_noisy else with_fine_structure(model, box.upper - box.lower)


def _fit(tower: Tower, k: int) -> Calibrated:
    box, seen = tower.boxes[k], tower.seen_by(k).finite
    if not len(seen):
        raise SurrogateError(
            f"the loss is not finite at any of the {len(tower.seen_by(k))} samples: the box has to "
            "be smaller, or the loss is broken"
        )
    model = box.model
    if model is None or len(model.surrogate.y) != len(seen):
        given = seen.points, seen.losses, box.lower, box.upper
        model, box.n_searched = brought_up_to_date(model, box.n_searched, *given)
    box.model, box.n_own = model, len(box.samples)
    return model

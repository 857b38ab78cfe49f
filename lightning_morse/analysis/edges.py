"""Faces of the outermost box through which the flow may leave, and questions that they leave open.

Where a point may end in a known attractor or leave, more samples tell little: the flow may pass so
close to a face that no band excludes it. A larger box tells. None of :func:`faces_in_question`
bears on soundness: it decides which box is looked at.
"""

from __future__ import annotations

import numpy as np

from lightning_morse._typing import Array, Mask
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.basins import leaving_through
from lightning_morse.conley.packed_sets import unpacked


def faces_left_through(portrait: PhasePortrait) -> Mask:
    """Whether each cell may leave the outermost box through each of its faces.

    It holds wherever the portrait does.

    Returns:
        Shape ``(nested.size, d, 2)``: axis, then lower and upper face.
    """
    nested, root = portrait.nested, portrait.nested.grids[0]
    exits = []
    for k, images in enumerate(portrait.images):
        grid, cells = nested.grids[k], nested.uncovered[k]
        # As in the map: an image box that reaches beyond a face leaves through it, too.
        beyond = np.stack([images.lower < grid.lower, images.upper > grid.upper], axis=2)
        of_box = (images.exits | beyond)[cells] & ~images.exterior[cells, None, None]
        of_box[:, grid.lower != root.lower, 0] = False
        of_box[:, grid.upper != root.upper, 1] = False
        exits.append(of_box)
        if portrait.held is not None:
            of_box[portrait.held[nested.part(k)]] = False
    return leaving_through(portrait.found, np.concatenate(exits))


def faces_in_question(portrait: PhasePortrait, point: Array) -> Mask | None:
    """The faces that a point may leave through instead of settling in a known attractor.

    Args:
        portrait: The portrait so far.
        point: Shape ``(d,)``, in the outermost box.

    Returns:
        Shape ``(d, 2)``: axis, then lower and upper face. None where the point does not leave, or
        not only that is open: it may come to no attractor, or to a set that may hide one.
    """
    cell = int(portrait.nested.cell_of(point[None])[0])
    attractors = list(portrait.found.attractors)
    may_reach = unpacked(portrait.found.reach[[cell]], len(portrait.found.morse_sets) + 1)[0]
    known = portrait.settled.resolved.copy()
    known[attractors] = True
    may_leave, may_settle = may_reach[-1], may_reach[attractors].any()
    if not (may_leave and may_settle) or (may_reach[:-1] & ~known).any():
        return None
    faces: Mask = faces_left_through(portrait)[cell]
    return faces

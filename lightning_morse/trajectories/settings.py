"""The arguments of an analysis of trajectories, checked: levels, and the grid on the box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse.grids.cubical import CubicalGrid, check_box
from lightning_morse.trajectories.pairs import Pairs

# With fewer cells per axis every cell touches the boundary or its neighbour does: no picture.
_FEWEST_CELLS = 4
_MOST_AXES = 3
# How far the default box reaches beyond the states, as a share of their range: states at the edge
# would have images outside.
_MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class Settings:
    """Arguments of an analysis, see :func:`lightning_morse.analyze_trajectories`."""

    grid: CubicalGrid
    confidence: float
    seed: int
    noise: str
    step_level: float

    @property
    def level_of_steps(self) -> float | None:
        """Probability with which the boxes hold a single step; None if they hold the mean."""
        return self.step_level if self.noise == "steps" else None


def check_numbers(confidence: float, noise: str, step_level: float) -> None:
    """Check the numbers of :class:`Settings` that a user gives."""
    for name, value in (("confidence", confidence), ("step_level", step_level)):
        if not (isinstance(value, int | float) and 0 < value < 1):
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    if noise not in ("mean", "steps"):
        raise ValueError(f"noise must be 'mean' or 'steps', got {noise!r}")


def grid_on(
    pairs: Pairs,
    lower: ArrayLike | None,
    upper: ArrayLike | None,
    resolution: int | Sequence[int],
) -> CubicalGrid:
    """The grid on the box that is given, or else on one around the states of the pairs."""
    dim = pairs.start.shape[1]
    if dim > _MOST_AXES:
        raise ValueError(
            f"states must have 1, 2 or 3 coordinates, got {dim}: the number of cells grows "
            "exponentially with it. Project the runs to a subspace first"
        )
    if (lower is None) != (upper is None):
        raise ValueError("lower and upper must be given both or neither, got one of them")
    if lower is None or upper is None:
        states = np.concatenate([pairs.start, pairs.end])
        least, most = states.min(axis=0), states.max(axis=0)
        flat = np.flatnonzero(~(most > least))
        if flat.size:
            raise ValueError(
                f"coordinate {flat[0]} is {least[flat[0]]:g} in all states: it has no dynamics. "
                "Leave it out, or give a box"
            )
        lower, upper = least - _MARGIN * (most - least), most + _MARGIN * (most - least)
    low, up = check_box(lower, upper)
    if len(low) != dim:
        raise ValueError(
            f"lower and upper must have one number for each of the {dim} coordinates of the "
            f"states, got {len(low)}"
        )
    shape: tuple[Any, ...] = (
        tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * dim
    )
    if len(shape) != dim or not all(
        isinstance(n, int | np.integer) and n >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {dim} of them for the "
            f"{dim} axes of the box, got {resolution!r}"
        )
    return CubicalGrid(low, up, shape)

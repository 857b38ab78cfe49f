r"""Where gradient flows end, from exact gradients: the truth that certain labels are held against.

Orbits are integrated with the linearly implicit pair of Shampine and Reichelt ("The MATLAB ODE
suite", SIAM J. Sci. Comput. 18, 1997, ``ode23s``): the loss of a network is steep across its
valleys and flat along them, and there an explicit method would creep. Each orbit has steps of its
own; all gradients of a stage are evaluated together. Where the loss grows away from a rest point in
all directions, the flow comes ever closer to it: this is looked at once, and whatever enters there
later has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

SETTLED, LEFT, UNFINISHED = "settled", "left", "unfinished"

# In units of the caller, cells of a grid: error of a step, and its greatest length.
TOLERANCE = 0.1
LONGEST = 6.0
# An orbit is at rest this close to where the linearised flow rests, in tolerances.
AT_REST = 1.0
# Distance at which gradients are compared for the derivatives of the field. Small: the kinks of
# ReLU networks, along which orbits slide, are themselves what is stiff.
APART = 0.1
MOST_STEPS = 200
# Rings around a rest point on which the gradient is looked at: the radii of the first and of the
# largest in units, their number, and the number of points of a ring. The flow has to lead from ring
# to ring down to this radius; closer to it, kinks make several rest points of one.
RINGS, N_RINGS, ON_A_RING = (1.0, 8.0), 10, 32
CLOSE = 2.0
# Least cosine of the angle between flow and direction to the rest point.
INWARD = 0.03

_GAMMA = 1 / (2 + np.sqrt(2))
_E = 6 + np.sqrt(2)

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Orbits:
    """How orbits ended.

    Attributes:
        ends: Last point of each, shape ``(n, d)``.
        fates: ``"settled"`` at an attracting rest point, ``"left"`` the box, or ``"unfinished"``
            within the number of steps.
        steps: Steps of each, shape ``(n,)``, rejected ones included.
    """

    ends: np.ndarray
    fates: np.ndarray
    steps: np.ndarray


def follow(
    gradient: Field,
    starts: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    unit: Field,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
    funnels: bool = True,
) -> Orbits:
    """Follow the flow of ``-gradient`` from points until it rests or leaves a box.

    A step takes ``d + 2`` gradients, one that is tried again two.

    Args:
        gradient: Exact gradients, shape ``(n, d)`` to ``(n, d)``; may be NaN.
        starts: Shape ``(n, d)``, inside the box.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, likewise.
        unit: What counts as a unit of length on each axis at each point (for error and length of
            steps, and for rest), shape ``(n, d)`` to ``(n, d)``.
        tolerance: Largest error of a step, in these units.
        most_steps: Largest number of steps of an orbit.
        funnels: Whether orbits end where they come close to a rest point that another has found,
            if the flow leads to it from all around. The end is then that rest point.
    """
    if not len(starts):
        return Orbits(starts.copy(), np.full(0, UNFINISHED), np.zeros(0, dtype=int))
    orbits = _Orbits(gradient, starts, unit, tolerance)
    known: list[_Funnel] = []
    while (active := np.flatnonzero(orbits.goes_on(most_steps))).size:
        resting = active[orbits.at_rest(active)]
        orbits.fates[resting] = SETTLED
        for at in orbits.x[resting] if funnels else ():
            if not any(funnel.knows(at) for funnel in known):
                known.append(_Funnel.about(gradient, at, lower, upper, unit(at[None])[0]))
        moved = orbits.step(np.setdiff1d(active, resting))
        at = orbits.x[moved]
        orbits.fates[moved[((at < lower) | (at > upper)).any(axis=1)]] = LEFT
        for funnel in known:
            going = np.flatnonzero(orbits.fates == UNFINISHED)
            caught = going[funnel.holds(orbits.x[going])]
            orbits.x[caught], orbits.fates[caught] = funnel.bottom, SETTLED
    return Orbits(orbits.x, orbits.fates, orbits.steps)


@dataclass(frozen=True, eq=False)
class _Funnel:
    """A disc in which the flow comes ever closer to its centre, as far as rings of points show."""

    bottom: np.ndarray
    radius: float
    unit: float

    @classmethod
    def about(
        cls,
        gradient: Field,
        bottom: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        unit: np.ndarray,
    ) -> _Funnel:
        """The largest one around a rest point in the plane, of radius 0 if there is none."""
        size = float(np.prod(unit) ** (1 / len(unit)))
        if len(bottom) != 2:
            return cls(bottom, 0.0, size)
        radii = size * np.geomspace(*RINGS, N_RINGS)
        radii = radii[radii < min((bottom - lower).min(), (upper - bottom).min())]
        angles = 2 * np.pi * np.arange(ON_A_RING) / ON_A_RING
        outward = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = bottom + radii[:, None, None] * outward
        slopes = gradient(points.reshape(-1, 2)).reshape(points.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (slopes * outward).sum(axis=2) / np.linalg.norm(slopes, axis=2)
        inward = (cosines >= INWARD).all(axis=1)
        far = radii[~inward & (radii > CLOSE * size)].min(initial=np.inf)
        inward &= radii < far
        return cls(bottom, float(radii[inward].max(initial=0.0)), size)

    def knows(self, point: np.ndarray) -> bool:
        """Whether a rest point is this one, as far as can be told."""
        return bool(np.linalg.norm(point - self.bottom) < max(self.radius, CLOSE * self.unit))

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which points are in it, shape ``(...,)`` for ``(..., d)``."""
        return np.linalg.norm(points - self.bottom, axis=-1) < self.radius


class _Orbits:
    """Orbits on their way."""

    def __init__(self, gradient: Field, starts: np.ndarray, unit: Field, tolerance: float) -> None:
        n, self.d = starts.shape
        self.field = lambda x: -gradient(x)
        self.unit, self.tolerance = unit, tolerance
        self.x = starts.copy()
        self.f = self.field(starts)
        self.jacobian = np.zeros((n, self.d, self.d))
        self.fresh = np.zeros(n, dtype=bool)  # whether the Jacobian is that of the point
        with np.errstate(divide="ignore"):
            self.h = 0.5 / np.linalg.norm(self.f / unit(starts), axis=1)
        self.steps = np.zeros(n, dtype=int)
        self.fates = np.full(n, UNFINISHED)

    def goes_on(self, most_steps: int) -> np.ndarray:
        """Which orbits may take a step; not those that began where the field is zero or NaN."""
        can = (self.steps < most_steps) & np.isfinite(self.h)
        return can & (self.fates == UNFINISHED)

    def at_rest(self, which: np.ndarray) -> np.ndarray:
        """Whether the linearised flow is attracted by a point close by."""
        self._linearise(which)
        jacobian = self.jacobian[which]
        sound = np.isfinite(jacobian).all(axis=(1, 2))
        jacobian = np.where(sound[:, None, None], jacobian, np.eye(self.d))
        attracts = (np.linalg.eigvals(jacobian).real < 0).all(axis=1)
        away = np.full(self.x[which].shape, np.inf)
        away[attracts] = _solve(jacobian[attracts], self.f[which][attracts])
        away /= self.unit(self.x[which])
        return np.abs(away).max(axis=1) < AT_REST * self.tolerance

    def _linearise(self, which: np.ndarray) -> None:
        """One-sided differences, at the points that have moved."""
        which = which[~self.fresh[which]]
        if not which.size:
            return
        apart = APART * self.unit(self.x[which])
        beside = self.x[which][:, None] + apart[:, :, None] * np.eye(self.d)
        there = self.field(beside.reshape(-1, self.d)).reshape(beside.shape)
        slopes = (there - self.f[which][:, None]) / apart[:, :, None]
        self.jacobian[which] = slopes.transpose(0, 2, 1)
        self.fresh[which] = True

    def step(self, which: np.ndarray) -> np.ndarray:
        """Try a step of each; return the orbits that took it."""
        if not which.size:
            return which
        x, f, h = self.x[which], self.f[which], self.h[which, None]
        matrix = np.eye(self.d) - _GAMMA * h[..., None] * self.jacobian[which]
        with np.errstate(invalid="ignore", over="ignore"):
            k1 = _solve(matrix, f)
            f1 = self._field_at(x + 0.5 * h * k1)
            k2 = _solve(matrix, f1 - k1) + k1
            after = x + h * k2
            f2 = self._field_at(after)
            k3 = _solve(matrix, f2 - _E * (k2 - f1) - 2 * (k1 - f))
            sound = np.isfinite(after).all(axis=1) & np.isfinite(k3).all(axis=1)
            # A step into finer cells is held to these.
            unit = np.minimum(self.unit(x), self.unit(np.where(sound[:, None], after, x)))
            error = np.abs(h / 6 * (k1 - 2 * k2 + k3) / unit).max(axis=1)
            length = np.abs(h * k2 / self.unit(x)).max(axis=1)
        error, length = (np.where(sound, a, np.inf) for a in (error, length))
        taken = (error <= self.tolerance) & (length <= LONGEST)
        with np.errstate(divide="ignore"):
            factor = 0.8 * (self.tolerance / error) ** (1 / 3)
            factor = np.minimum(factor, 0.9 * LONGEST / length)
        self.h[which] *= np.clip(factor, 0.2, 4.0)
        self.steps[which] += 1
        moved = which[taken]
        self.x[moved], self.f[moved], self.fresh[moved] = after[taken], f2[taken], False
        return moved

    def _field_at(self, x: np.ndarray) -> np.ndarray:
        """The field, NaN at points that are no points."""
        known = np.isfinite(x).all(axis=1)
        values = np.full_like(x, np.nan)
        if known.any():
            values[known] = self.field(x[known])
        return values


def _solve(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Solutions of small linear systems; NaN where a matrix is singular or not finite."""
    sound = np.isfinite(matrices).all(axis=(1, 2)) & np.isfinite(vectors).all(axis=1)
    sound[sound] = np.linalg.det(matrices[sound]) != 0
    found = np.full_like(vectors, np.nan)
    found[sound] = np.linalg.solve(matrices[sound], vectors[sound][..., None])[..., 0]
    return found


def lattice_minimum(
    losses: np.ndarray, start: Sequence[int], spacing: np.ndarray
) -> tuple[int, ...] | None:
    """The local minimum of a lattice that steepest descent leads to, None if to its boundary.

    Args:
        losses: One value per lattice point; not finite counts as infinitely high.
        start: Index of the point to start from.
        spacing: Distance of lattice points on each axis, shape ``(losses.ndim,)``.

    Returns:
        Index of a point in the interior that is lower than all points around it.
    """
    high = np.where(np.isfinite(losses), losses, np.inf)
    offsets = [np.array(o) for o in product((-1, 0, 1), repeat=losses.ndim) if any(o)]
    distances = [float(np.linalg.norm(o * spacing)) for o in offsets]
    at = tuple(start)
    while all(0 < i < n - 1 for i, n in zip(at, high.shape, strict=True)):
        around = [tuple(at + o) for o in offsets]
        slopes = [(high[at] - high[p]) / d for p, d in zip(around, distances, strict=True)]
        best = int(np.nanargmax(slopes))
        if slopes[best] <= 0:
            return tuple(int(i) for i in at)
        at = around[best]
    return None

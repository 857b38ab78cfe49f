"""From runs to pairs of states, the second a fixed number of steps after the first.

A map is learnt from pairs (state, later state of the *same* run). Pairs that are out of step are
not a little worse but false with confidence: ends drawn from other runs are independent of the
starts, so every start seems to be led to the mean of all ends, and a process without any attractor
gets one. Hence pairs are only made from run ids and steps, and what does not agree is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells
from lightning_morse.arguments import integer_of_at_least


@dataclass(frozen=True, eq=False)
class Pairs:
    """States and what became of them ``lag`` steps later.

    Attributes:
        start: States, shape ``(n, d)``.
        end: States of the same runs ``lag`` steps later, same shape.
        run: Number of the run each pair is from, a position in ``run_ids``, shape ``(n,)``.
        step: Step of each start, same shape.
        lag: Number of steps from start to end.
        run_ids: Names of all runs, those without a pair included.
        cut: Ids of the runs that were used only up to the step before they diverged.
    """

    start: Array
    end: Array
    run: Cells
    step: Cells
    lag: int
    run_ids: tuple[str, ...]
    cut: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.start)

    @property
    def displacement(self) -> Array:
        """How far the states moved, shape ``(n, d)``."""
        return self.end - self.start

    def starting_in(self, lower: ArrayLike, upper: ArrayLike) -> Pairs:
        """The pairs that start in a closed box; their ends may lie anywhere.

        Args:
            lower: Lower corner, shape ``(d,)``.
            upper: Upper corner, same shape.
        """
        kept = ((self.start >= np.asarray(lower)) & (self.start <= np.asarray(upper))).all(axis=1)
        return Pairs(
            start=self.start[kept],
            end=self.end[kept],
            run=self.run[kept],
            step=self.step[kept],
            lag=self.lag,
            run_ids=self.run_ids,
            cut=self.cut,
        )


def aligned_pairs(
    start: ArrayLike,
    end: ArrayLike,
    start_run: Sequence[object],
    end_run: Sequence[object],
    start_step: ArrayLike,
    end_step: ArrayLike,
    lag: int = 1,
) -> Pairs:
    """Pairs of states that are at hand one by one, after checking that they belong together.

    Args:
        start: States, shape ``(n, d)``.
        end: The states that followed, same shape.
        start_run: Id of the run of each start, length ``n``; compared as text.
        end_run: Id of the run of each end.
        start_step: Step of each start, integers, shape ``(n,)``.
        end_step: Step of each end.
        lag: Number of steps between them.

    Raises:
        ValueError: If shapes disagree, a state is not finite, start and end of a pair are of
            different runs or not ``lag`` steps apart, or a start occurs twice.

    Example:
        >>> pairs = aligned_pairs([[0.0], [1.0]], [[0.5], [1.5]], "aa", "aa", [0, 1], [1, 2])
        >>> pairs.displacement.tolist(), pairs.run_ids
        ([[0.5], [0.5]], ('a',))
    """
    integer_of_at_least("lag", lag, 1)
    first, second = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise ValueError(
            f"start and end must both have shape (n, d) with n, d >= 1, got {first.shape} and "
            f"{second.shape}"
        )
    n = len(first)
    begin, after = _integers(start_step, "start_step"), _integers(end_step, "end_step")
    ids, other = [str(r) for r in start_run], [str(r) for r in end_run]
    lengths = {"start_run": len(ids), "end_run": len(other)}
    lengths |= {"start_step": begin.size, "end_step": after.size}
    for name, length in lengths.items():
        if length != n:
            raise ValueError(f"{name} must have one entry for each of the {n} pairs, got {length}")
    bad = np.flatnonzero(~(np.isfinite(first) & np.isfinite(second)).all(axis=1))
    if bad.size:
        raise ValueError(
            f"states must be finite, got {first[bad[0]].tolist()} and {second[bad[0]].tolist()} in "
            f"pair {bad[0]} of run {ids[bad[0]]!r}. Leave out what comes after it diverged"
        )
    for i, (a, b) in enumerate(zip(ids, other, strict=True)):
        if a != b:
            raise ValueError(
                f"both states of a pair must be of one run, got runs {a!r} and {b!r} in pair {i}. "
                "Sort the states by run and step before pairing them"
            )
    apart = np.flatnonzero(after - begin != lag)
    if apart.size:
        i = int(apart[0])
        raise ValueError(
            f"the states of a pair must be {lag} steps apart, got steps {begin[i]} and {after[i]} "
            f"in pair {i} of run {ids[i]!r}. Pair states of the same run by their steps"
        )
    names = tuple(dict.fromkeys(ids))
    run = np.array([names.index(r) for r in ids], dtype=np.int64)
    _, index, count = np.unique(
        np.stack([run, begin], axis=1), axis=0, return_index=True, return_counts=True
    )
    if (count > 1).any():
        i = int(index[count > 1][0])
        raise ValueError(
            f"a run must have one state at a step, got two pairs that start at step {begin[i]} of "
            f"run {ids[i]!r}. Give every run an id of its own"
        )
    return Pairs(first, second, run, begin, int(lag), names)


def pairs_of_runs(
    trajectories: Sequence[ArrayLike],
    lag: int = 1,
    run_ids: Sequence[object] | None = None,
    steps: Sequence[ArrayLike] | None = None,
    overlapping: bool = False,
) -> Pairs:
    """All pairs of states of the same run that are ``lag`` steps apart.

    A run is used up to its first state that is not finite; such runs are named in ``cut``.

    Args:
        trajectories: One array a run, shape ``(T_k, d)``, oldest state first.
        lag: Number of steps between the states of a pair.
        run_ids: A name for each run, all different; their positions by default.
        steps: The step of each state of each run, rising integers of shape ``(T_k,)``; 0, 1, ...
            by default. Where a step is missing there is no pair.
        overlapping: Whether pairs may share steps. With noise in the dynamics, the displacements
            of pairs that do are correlated, which the surrogate does not know of; leave it out
            unless the runs are free of noise. For ``lag=1`` it makes no difference.

    Raises:
        ValueError: If there are no runs, one has the wrong shape, is too short for a pair or
            another dimension than the first, an id occurs twice, steps do not rise, or no run has
            a pair.

    Example:
        >>> pairs = pairs_of_runs([[[0.0], [1.0], [3.0]], [[5.0], [6.0], [float("nan")]]])
        >>> pairs.start.ravel().tolist(), pairs.end.ravel().tolist(), pairs.cut
        ([0.0, 1.0, 5.0], [1.0, 3.0, 6.0], ('1',))
    """
    integer_of_at_least("lag", lag, 1)
    runs = [np.asarray(t, dtype=np.float64) for t in trajectories]
    if not runs:
        raise ValueError("trajectories must hold at least one run, got none")
    ids = [str(r) for r in (range(len(runs)) if run_ids is None else run_ids)]
    if len(ids) != len(runs):
        raise ValueError(
            f"run_ids must name each of the {len(runs)} runs, got {len(ids)}. Leave them out to "
            "number the runs"
        )
    twice = [r for r in dict.fromkeys(ids) if ids.count(r) > 1] if len(set(ids)) < len(ids) else []
    if twice:
        where = [i for i, r in enumerate(ids) if r == twice[0]]
        raise ValueError(
            f"every run must have an id of its own, got {twice[0]!r} for runs {where}. Join the "
            "parts of one run, or rename them"
        )
    if steps is not None and len(steps) != len(runs):
        raise ValueError(
            f"steps must hold one array for each of the {len(runs)} runs, got {len(steps)}"
        )
    cut, parts = [], []
    for k, (name, run) in enumerate(zip(ids, runs, strict=True)):
        if run.ndim != 2 or run.shape[1] < 1:
            raise ValueError(
                f"run {name!r} must have shape (T, d), one state a row, got {run.shape}"
            )
        if run.shape[1] != runs[0].shape[1]:
            raise ValueError(
                f"all runs must have the same dimension, got {runs[0].shape[1]} for run "
                f"{ids[0]!r} and {run.shape[1]} for run {name!r}. Use the same coordinates for all"
            )
        if len(run) <= lag:
            raise ValueError(
                f"a run must have at least {lag + 1} states for a lag of {lag}, got {len(run)} in "
                f"run {name!r}. Leave it out, or use a smaller lag"
            )
        at = np.arange(len(run)) if steps is None else _integers(steps[k], f"steps[{k}]")
        if at.shape != (len(run),) or (np.diff(at) <= 0).any():
            raise ValueError(
                f"the steps of run {name!r} must be {len(run)} rising integers, got shape "
                f"{at.shape}{'' if at.shape != (len(run),) else ' that do not rise'}. Sort its "
                "states by step"
            )
        finite = np.isfinite(run).all(axis=1)
        if not finite.all():
            cut.append(name)
            stop = int(np.argmin(finite))
            run, at = run[:stop], at[:stop]
        parts.append((k, run, at))
    first, second, number, begin = [], [], [], []
    for k, run, at in parts:
        partner = np.searchsorted(at, at + lag)
        found = np.flatnonzero(np.isin(at + lag, at))
        if not overlapping and lag > 1:
            found = found[(at[found] - at[:1]) % lag == 0]
        first.append(run[found])
        second.append(run[partner[found]])
        number.append(np.full(found.size, k, dtype=np.int64))
        begin.append(at[found])
    if not sum(map(len, first)):
        raise ValueError(
            f"no run has two finite states {lag} steps apart (cut where they diverged: {cut}). Use "
            "a smaller lag, or record more often"
        )
    return Pairs(
        start=np.concatenate(first),
        end=np.concatenate(second),
        run=np.concatenate(number),
        step=np.concatenate(begin),
        lag=int(lag),
        run_ids=tuple(ids),
        cut=tuple(cut),
    )


def _integers(steps: ArrayLike, name: str) -> Cells:
    array = np.asarray(steps)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers in one row, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)

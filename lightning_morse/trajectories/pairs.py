"""Pairs of states of one run, a fixed number of steps apart.

A map is learned from pairs (state, later state of the *same* run). Misaligned pairs do not merely
cost accuracy, they mislead with confidence: if the ends come from other runs they are independent
of the starts, so every start appears to be sent to the mean of all ends, and a process without any
attractor acquires one. Pairs are therefore built from run ids and step numbers only, and anything
inconsistent is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells
from lightning_morse.arguments import integer_of_at_least, real_numbers


@dataclass(frozen=True, eq=False)
class Pairs:
    """States, and the states of the same runs ``lag`` steps later.

    Attributes:
        start: States, shape ``(n, d)``.
        end: States of the same runs ``lag`` steps later, shape ``(n, d)``.
        run: Run of each pair as an index into ``run_ids``, shape ``(n,)``.
        step: Step of each start, shape ``(n,)``.
        lag: Number of steps from start to end.
        run_ids: Names of all runs, including those that contribute no pair.
        cut: Ids of the runs that diverged and were used only up to the step before.
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
        """Displacement of each state over ``lag`` steps, shape ``(n, d)``."""
        return self.end - self.start

    def starting_in(self, lower: ArrayLike, upper: ArrayLike) -> Pairs:
        """The pairs that start in a closed box; their ends may lie anywhere.

        Args:
            lower: Lower corner, shape ``(d,)``.
            upper: Upper corner, shape ``(d,)``.
        """
        inside = (self.start >= np.asarray(lower)) & (self.start <= np.asarray(upper))
        return self.chosen(np.flatnonzero(inside.all(axis=1)))

    def chosen(self, kept: Cells) -> Pairs:
        """Some of the pairs.

        Args:
            kept: Their numbers, shape ``(k,)``.
        """
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
    """Assemble pairs from ready-made starts and ends, after checking that they belong together.

    Args:
        start: States, shape ``(n, d)``.
        end: The states that followed them, shape ``(n, d)``.
        start_run: Run id of each start, length ``n``; ids are compared as strings.
        end_run: Run id of each end, length ``n``.
        start_step: Step of each start, integers, shape ``(n,)``.
        end_step: Step of each end, shape ``(n,)``.
        lag: Number of steps between start and end.

    Raises:
        ValueError: If shapes disagree, a state is not finite, the two states of a pair belong to
            different runs or are not ``lag`` steps apart, or a start occurs twice.

    Example:
        >>> pairs = aligned_pairs([[0.0], [1.0]], [[0.5], [1.5]], "aa", "aa", [0, 1], [1, 2])
        >>> pairs.displacement.tolist(), pairs.run_ids
        ([[0.5], [0.5]], ('a',))
    """
    integer_of_at_least("lag", lag, 1)
    first, second = real_numbers("start", start), real_numbers("end", end)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise ValueError(
            f"start and end must both have shape (n, d) with n, d >= 1, got {first.shape} and "
            f"{second.shape}"
        )
    begin, after = _integers(start_step, "start_step"), _integers(end_step, "end_step")
    ids, other = [str(r) for r in start_run], [str(r) for r in end_run]
    lengths = {"start_run": len(ids), "end_run": len(other)}
    lengths |= {"start_step": begin.size, "end_step": after.size}
    for name, length in lengths.items():
        if length != len(first):
            raise ValueError(
                f"{name} must have one entry for each of the {len(first)} pairs, got {length}"
            )
    _check_finite(first, second, ids)
    _check_alignment(ids, other, begin, after, lag)
    names = tuple(dict.fromkeys(ids))
    run = np.array([names.index(r) for r in ids], dtype=np.int64)
    _check_unique_starts(run, begin, names)
    return Pairs(first, second, run, begin, int(lag), names)


def pairs_of_runs(
    trajectories: Sequence[ArrayLike],
    lag: int = 1,
    run_ids: Sequence[object] | None = None,
    steps: Sequence[ArrayLike] | None = None,
    overlapping: bool = False,
) -> Pairs:
    """All pairs of states of the same run that are ``lag`` steps apart.

    A run is used up to its first state that is not finite; such runs are listed in ``cut``.

    Args:
        trajectories: One array per run, shape ``(T_k, d)``, oldest state first.
        lag: Number of steps between the states of a pair.
        run_ids: A unique name for each run; by default its position.
        steps: The step of each state of each run, increasing integers of shape ``(T_k,)``; by
            default 0, 1, ... Missing steps give no pair.
        overlapping: Whether pairs may share steps. If the dynamics are noisy, overlapping pairs
            have correlated displacements, which the surrogate does not model; leave this off unless
            the runs are noise-free. It makes no difference for ``lag=1``.

    Raises:
        ValueError: If there are no runs; if a run has the wrong shape, is too short for a pair or
            differs in dimension from the first; if an id occurs twice or steps do not increase; or
            if no run contains a pair.

    Example:
        >>> pairs = pairs_of_runs([[[0.0], [1.0], [3.0]], [[5.0], [6.0], [float("nan")]]])
        >>> pairs.start.ravel().tolist(), pairs.end.ravel().tolist(), pairs.cut
        ([0.0, 1.0, 5.0], [1.0, 3.0, 6.0], ('1',))
    """
    integer_of_at_least("lag", lag, 1)
    runs = [real_numbers(f"trajectories[{k}]", t) for k, t in enumerate(trajectories)]
    ids = _unique_ids(run_ids, len(runs))
    if steps is not None and len(steps) != len(runs):
        raise ValueError(
            f"steps must hold one array for each of the {len(runs)} runs, got {len(steps)}"
        )
    cut, finite_parts = [], []
    for k, (name, run) in enumerate(zip(ids, runs, strict=True)):
        _check_states(run, name, lag, runs[0], ids[0])
        at = np.arange(len(run)) if steps is None else _integers(steps[k], f"steps[{k}]")
        _check_steps(at, len(run), name)
        length = _finite_length(run)
        if length < len(run):
            cut.append(name)
        finite_parts.append((run[:length], at[:length]))
    first, second, number, begin = [], [], [], []
    for k, (run, at) in enumerate(finite_parts):
        here, there = _partners(at, lag, overlapping)
        first.append(run[here])
        second.append(run[there])
        number.append(np.full(here.size, k, dtype=np.int64))
        begin.append(at[here])
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


def _partners(at: Cells, lag: int, overlapping: bool) -> tuple[Cells, Cells]:
    """Positions of the starts and ends of all pairs in a run with the given steps."""
    partner = np.searchsorted(at, at + lag)
    found = np.flatnonzero(np.isin(at + lag, at))
    if not overlapping and lag > 1:
        found = found[(at[found] - at[:1]) % lag == 0]
    return found, partner[found]


def _finite_length(run: Array) -> int:
    """Number of states before the first one that is not finite."""
    finite = np.isfinite(run).all(axis=1)
    return len(run) if finite.all() else int(np.argmin(finite))


def _unique_ids(run_ids: Sequence[object] | None, n_runs: int) -> list[str]:
    if not n_runs:
        raise ValueError("trajectories must hold at least one run, got none")
    ids = [str(r) for r in (range(n_runs) if run_ids is None else run_ids)]
    if len(ids) != n_runs:
        raise ValueError(
            f"run_ids must name each of the {n_runs} runs, got {len(ids)}. Omit run_ids to number "
            "the runs"
        )
    where: dict[str, list[int]] = {}
    for i, r in enumerate(ids):
        where.setdefault(r, []).append(i)
    for r, positions in where.items():
        if len(positions) > 1:
            raise ValueError(
                f"every run must have an id of its own, got {r!r} for runs {positions}. Join the "
                "parts of one run, or rename them"
            )
    return ids


def _check_states(run: Array, name: str, lag: int, reference: Array, reference_name: str) -> None:
    if run.ndim != 2 or run.shape[1] < 1:
        raise ValueError(f"run {name!r} must have shape (T, d), one state per row, got {run.shape}")
    if run.shape[1] != reference.shape[1]:
        raise ValueError(
            f"all runs must have the same dimension, got {reference.shape[1]} for run "
            f"{reference_name!r} and {run.shape[1]} for run {name!r}. Use the same coordinates for "
            "all"
        )
    if len(run) <= lag:
        raise ValueError(
            f"a run must have at least {lag + 1} states for a lag of {lag}, got {len(run)} in run "
            f"{name!r}. Leave it out, or use a smaller lag"
        )


def _check_steps(at: Cells, n_states: int, name: str) -> None:
    if at.shape != (n_states,) or (np.diff(at) <= 0).any():
        fault = "" if at.shape != (n_states,) else " that do not increase"
        raise ValueError(
            f"the steps of run {name!r} must be {n_states} increasing integers, got shape "
            f"{at.shape}{fault}. Sort its states by step"
        )


def _check_finite(first: Array, second: Array, ids: list[str]) -> None:
    bad = np.flatnonzero(~(np.isfinite(first) & np.isfinite(second)).all(axis=1))
    if bad.size:
        i = int(bad[0])
        raise ValueError(
            f"states must be finite, got {first[i].tolist()} and {second[i].tolist()} in pair {i} "
            f"of run {ids[i]!r}. Drop the states after it diverged"
        )


def _check_alignment(
    ids: list[str], other: list[str], begin: Cells, after: Cells, lag: int
) -> None:
    for i, (a, b) in enumerate(zip(ids, other, strict=True)):
        if a != b:
            raise ValueError(
                f"both states of a pair must belong to one run, got runs {a!r} and {b!r} in pair "
                f"{i}. Sort the states by run and step before pairing them"
            )
    apart = np.flatnonzero(after - begin != lag)
    if apart.size:
        i = int(apart[0])
        raise ValueError(
            f"the states of a pair must be {lag} steps apart, got steps {begin[i]} and {after[i]} "
            f"in pair {i} of run {ids[i]!r}. Pair states of the same run by their steps"
        )


def _check_unique_starts(run: Cells, begin: Cells, names: tuple[str, ...]) -> None:
    _, index, count = np.unique(
        np.stack([run, begin], axis=1), axis=0, return_index=True, return_counts=True
    )
    if (count > 1).any():
        i = int(index[count > 1][0])
        raise ValueError(
            f"a run must have one state per step, got two pairs that start at step {begin[i]} of "
            f"run {names[run[i]]!r}. Give every run a unique id"
        )


def _integers(steps: ArrayLike, name: str) -> Cells:
    array = np.asarray(steps)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers in a one-dimensional array, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.astype(np.int64)

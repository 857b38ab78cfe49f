"""Checks of arguments that many functions share."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray


def integer_of_at_least(name: str, value: Any, least: int) -> int:
    """Check a count.

    Args:
        name: What the argument is called.
        value: What was given; NumPy's integers count, truth values do not.
        least: The smallest number allowed.

    Returns:
        The number.

    Raises:
        ValueError: If it is not an integer, or is too small.

    Example:
        >>> integer_of_at_least("dim", 3, 1)
        3
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or value.__index__() < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value.__index__()


def level_of_confidence(value: Any) -> float:
    """Check a level of confidence.

    Raises:
        ValueError: If it is not a number strictly between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {value!r}")
    return float(value)


def real_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Check an array of numbers, and return a fresh one in double precision.

    Args:
        name: What the argument is called.
        values: Whatever NumPy takes for a dense array.

    Raises:
        ValueError: If they are not real floating or integer numbers, such as complex ones, truth
            values, or a sparse tensor.

    Example:
        >>> real_numbers("losses", [1, 2]).tolist()
        [1.0, 2.0]
    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise ValueError(f"{name} must be a dense array of real numbers, got {kind}") from error
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real floating or integer numbers, got {found.dtype}")
    return np.array(found, dtype=np.float64)


def course_in_slice(
    d: int,
    trajectory: ArrayLike | None,
    current: ArrayLike | None,
    axis_labels: Sequence[str] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[str, ...]]:
    """Check what is shown beside an analysis: earlier weights, current ones, and labels.

    Args:
        d: Number of axes.
        trajectory: Earlier weights, shape ``(T, d)``; none if left out.
        current: Current weights, shape ``(d,)``.
        axis_labels: One per axis.

    Returns:
        The same, with labels if none were given.

    Raises:
        ValueError: If a shape is another one, or current weights are not finite.
    """
    path = np.empty((0, d)) if trajectory is None else np.asarray(trajectory, dtype=np.float64)
    if path.ndim != 2 or path.shape[1] != d:
        raise ValueError(f"trajectory must have shape (T, {d}), got {path.shape}")
    now = None if current is None else np.asarray(current, dtype=np.float64)
    if now is not None and (now.shape != (d,) or not np.isfinite(now).all()):
        raise ValueError(f"current must be {d} finite numbers, got {current!r}")
    labels = tuple(axis_labels or (f"direction {j + 1}" for j in range(d)))
    if len(labels) != d:
        raise ValueError(f"axis_labels must be {d} labels, one per axis, got {axis_labels!r}")
    return path, now, labels

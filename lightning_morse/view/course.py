"""How each of many runs went, in few numbers: what the table of runs shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DIGITS = 5  # of a loss: more than a table shows, and a curve of a hundred pixels


def course_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the course of a run: columns of numbers, and all that is known of its end.

    Of 200 runs with 200 analyses each the courses take 1 MB.

    Args:
        steps: A summary for each step, see :func:`lightning_morse.view.record.summary`, or why it
            cannot be read.

    Returns:
        ``step``, and ``loss`` and ``floor`` with None where they are not known, one value for each
        step; ``last``, the summary of the last step that can be read, without its basins; None if
        there is none.
    """
    good = [step for step in steps if "error" not in step]
    last = {k: v for k, v in good[-1].items() if k != "basins"} if good else None
    return {
        "step": [step["step"] for step in steps],
        "loss": [_short(step.get("loss")) for step in steps],
        "floor": [_short(step.get("floor")) for step in steps],
        "last": last,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")

r"""The linear comparison system ``r' = A r + b`` over one step, with every bound proved.

Throughout, ``A`` is constant over the step and its off-diagonal entries are non-negative (a Metzler
matrix), ``b >= 0`` and ``r(0) >= 0``; ``h`` is the length of the step and norms are maximum norms.
Such a system bounds the deviation of one trajectory from another (Kamke and Mueller; Walter,
"Differential and Integral Inequalities", 1970, section 12). Because ``A`` is Metzler, ``exp(s A)``
has non-negative entries for ``s >= 0``.

All functions take a stack of systems, which comes last so that loops run over adjacent numbers:
matrices of shape ``(d, d, ..., n)``, vectors of shape ``(d, ..., n)`` and one step per system,
shape ``(n,)``.
"""

from __future__ import annotations

import numpy as np

from lightning_morse._typing import Array

# The bounds below hold for h ||A|| up to this; callers refuse longer steps. Soundness depends on
# it: the remainder of the power series is compared with its last term.
LARGEST_EXPONENT = 1.0
# Terms of the power series. At h ||A|| = 1 the last one is below 1e-5 of the first; fewer would
# only loosen the bound, since the last term is added to cover the remainder.
_TERMS = 9
# Relative inflation against rounding, several hundred times what the few sums here can lose.
_ROUNDING = 1e-12


def norm(matrix: Array) -> Array:
    """Norm of each system's matrix, the largest over its inner axes, shape ``(n,)``."""
    rows = np.abs(matrix).sum(axis=1)
    return np.asarray(rows.max(axis=tuple(range(rows.ndim - 1))))


def solution(matrix: Array, forcing: Array, start: Array, step: Array) -> Array:
    r"""Solution at the end of a step, rounded up.

    :math:`r(h) = r + h \varphi(h A)(A r + b)` with :math:`\varphi(z) = (e^z - 1) / z` as a power
    series. Each term is at most :math:`h \|A\| / 10` times the one before it once nine are summed,
    so for :math:`h \|A\| \le 1` the remainder is below the norm of the last term.

    Args:
        matrix: ``A``, with ``step * norm(matrix)`` at most :data:`LARGEST_EXPONENT`.
        forcing: ``b``.
        start: ``r(0)``.
        step: ``h``.
    """
    term = step * (_times(matrix, start) + forcing)
    total = start + term
    for k in range(2, _TERMS + 1):
        term = _times(matrix, term)
        term *= step
        term /= k
        total += term
    total += np.abs(term).max(axis=0)
    np.maximum(total, 0.0, out=total)
    total *= 1 + _ROUNDING
    return total


def largest_within(matrix: Array, forcing: Array, start: Array, end: Array, step: Array) -> Array:
    r"""Bound on the solution anywhere in a step, entry by entry.

    A function whose second derivative is at least :math:`-K` on :math:`[0, h]` exceeds the larger
    of its end values by at most :math:`h^2 K / 8`. Here :math:`r'' = e^{sA} p` with
    :math:`p = A (A r(0) + b)`. Since :math:`e^{sA} \ge 0`, :math:`-r'' \le e^{sA} p^-` with
    :math:`p^- = \max(-p, 0)`; and :math:`e^{sA} \le e^{s A^+}` with :math:`A^+ = \max(A, 0)`, hence

    .. math:: K_i = p^-_i + (e^{h \|A^+\|} - 1) \max_j p^-_j.

    Boxes that only grow or only shrink mostly have :math:`p \ge 0`, and then nothing is added.

    Args:
        matrix: ``A``, with ``step * norm(matrix)`` at most :data:`LARGEST_EXPONENT`.
        forcing: ``b``.
        start: ``r(0)``.
        end: An upper bound of ``r(h)``.
        step: ``h``.
    """
    concavity = np.maximum(-_times(matrix, _times(matrix, start) + forcing), 0.0)
    positive = np.maximum(matrix, 0.0).sum(axis=1).max(axis=0)
    # Larger exponents are refused by the caller; the minimum only avoids an overflow there.
    growth = np.expm1(np.minimum(step * positive, LARGEST_EXPONENT))
    concavity = concavity + growth * concavity.max(axis=0)
    return np.asarray(np.maximum(start, end) + step * step / 8 * concavity * (1 + _ROUNDING))


def mean_growth(exponent: Array) -> Array:
    r"""Mean of :math:`e^{s z}` over :math:`s` in [0, 1], rounded up; increasing in ``z``."""
    safe = np.where(exponent == 0, 1.0, exponent)
    mean = np.where(exponent == 0, 1.0, np.expm1(safe) / safe)
    return np.asarray(mean * (1 + _ROUNDING))


def _times(matrix: Array, vector: Array) -> Array:
    out = matrix[:, 0] * vector[0]
    for j in range(1, len(vector)):
        out += matrix[:, j] * vector[j]
    return np.asarray(out)

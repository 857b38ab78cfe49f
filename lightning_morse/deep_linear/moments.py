r"""Second moments of regression data: all that the loss of a linear network depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array

# Asymmetry and negative eigenvalues of a moment matrix up to this share of its largest entry are
# taken for rounding of sums over examples; anything larger is refused as a mistake of the caller.
ROUNDING_SHARE = 1e-9


@dataclass(frozen=True)
class Moments:
    r"""Second moments of regression data.

    Attributes:
        xx: :math:`S_{xx} = E[x x^\top]`, shape ``(n_0, n_0)``, symmetric and positive semidefinite;
            possibly singular.
        yx: :math:`S_{yx} = E[y x^\top]`, shape ``(n_L, n_0)``.
        yy: :math:`\operatorname{tr} S_{yy} = E|y|^2`.

    Raises:
        ValueError: If a shape does not fit, an entry is not finite, or ``xx`` is not symmetric
            positive semidefinite up to rounding.

    Example:
        >>> moments = Moments.of([[1.0], [-1.0]], [[3.0], [-3.0]])
        >>> moments.xx.item(), moments.yx.item(), moments.yy
        (1.0, 3.0, 9.0)
    """

    xx: Array
    yx: Array
    yy: float

    def __post_init__(self) -> None:
        xx, yx = (np.array(m, dtype=np.float64) for m in (self.xx, self.yx))
        object.__setattr__(self, "xx", xx)
        object.__setattr__(self, "yx", yx)
        object.__setattr__(self, "yy", float(self.yy))
        if xx.ndim != 2 or xx.shape[0] != xx.shape[1] or yx.ndim != 2 or yx.shape[1] != len(xx):
            raise ValueError(
                "xx must have shape (n_0, n_0) and yx (n_L, n_0), got "
                f"{xx.shape} and {yx.shape}. Use Moments.of(x, y) with one example per row"
            )
        if not (np.isfinite(xx).all() and np.isfinite(yx).all() and np.isfinite(self.yy)):
            raise ValueError("moments must be finite, got NaN or infinity. Check the data")
        size = np.abs(xx).max(initial=0.0)
        if np.abs(xx - xx.T).max(initial=0.0) > ROUNDING_SHARE * size:
            raise ValueError("xx must be symmetric, got a matrix that is not. Use (xx + xx.T) / 2")
        least = float(np.linalg.eigvalsh(xx).min(initial=0.0))
        if least < -ROUNDING_SHARE * size * len(xx):
            raise ValueError(
                f"xx must be positive semidefinite, got the eigenvalue {least:.3g}. Pass E[x x^T]"
            )

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> Moments:
        """The moments of a sample, all examples weighted equally.

        Args:
            x: Inputs, shape ``(m, n_0)``.
            y: Targets, shape ``(m, n_L)``.

        Raises:
            ValueError: If the shapes disagree, there are no examples, or some are not finite.
        """
        inputs, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or not len(inputs):
            raise ValueError(
                "x must have shape (m, n_0) and y (m, n_L) with the same m >= 1, got "
                f"{inputs.shape} and {targets.shape}. Put one example in each row"
            )
        m = len(inputs)
        return cls(
            inputs.T @ inputs / m, targets.T @ inputs / m, float(np.square(targets).sum()) / m
        )

    @property
    def n_inputs(self) -> int:
        """Width ``n_0`` of the input."""
        return len(self.xx)

    @property
    def n_outputs(self) -> int:
        """Width ``n_L`` of the output."""
        return len(self.yx)

    def scaled(self, factor: float) -> Moments:
        r"""The moments whose loss is ``factor`` times the loss of these.

        The loss is linear in the moments, so everything derived from it (gradients, flow, critical
        values, Hessians) is rescaled with it. ``torch.nn.functional.mse_loss`` also averages over
        the outputs and omits the factor one half: ``factor = 2 / n_outputs``.

        Args:
            factor: Positive and finite.

        Raises:
            ValueError: If the factor is not positive and finite.

        Example:
            >>> from lightning_morse.deep_linear.network import loss
            >>> moments = Moments.of([[1.0, 0.0]], [[2.0, 0.0]])
            >>> loss([np.zeros((2, 2))], moments.scaled(2 / moments.n_outputs))  # (4 + 0) / 2
            2.0
        """
        if not (factor > 0 and np.isfinite(factor)):
            raise ValueError(f"factor must be positive and finite, got {factor!r}")
        return Moments(factor * self.xx, factor * self.yx, factor * self.yy)

    def centred(self, x_mean: ArrayLike, y_mean: ArrayLike) -> Moments:
        r"""The moments of the centred data, which govern a network with biases.

        Let the last layer have a bias (other layers may, too). Where the gradient with respect to
        that bias vanishes, so does the mean residual; then the gradients with respect to the
        weights are those of the network without biases on centred data, and the critical values
        agree. The flows do not, unless the mean residual is zero.

        Args:
            x_mean: :math:`E[x]`, shape ``(n_0,)``; these moments must not have been scaled.
            y_mean: :math:`E[y]`, shape ``(n_L,)``.

        Returns:
            Moments of ``x - E[x]`` and ``y - E[y]``.

        Raises:
            ValueError: If a shape does not fit.

        Example:
            >>> moments = Moments.of([[1.0], [3.0]], [[5.0], [5.0]]).centred([2.0], [5.0])
            >>> moments.xx.item(), moments.yx.item(), moments.yy
            (1.0, 0.0, 0.0)
        """
        x, y = np.asarray(x_mean, dtype=np.float64), np.asarray(y_mean, dtype=np.float64)
        if x.shape != (self.n_inputs,) or y.shape != (self.n_outputs,):
            raise ValueError(
                f"x_mean must have shape ({self.n_inputs},) and y_mean ({self.n_outputs},), got "
                f"{x.shape} and {y.shape}"
            )
        return Moments(self.xx - np.outer(x, x), self.yx - np.outer(y, x), self.yy - float(y @ y))

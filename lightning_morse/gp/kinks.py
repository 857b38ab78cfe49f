r"""Does the loss have kinks? A rougher process is fitted to the same samples, and weighed.

Counting critical points by their index (:mod:`lightning_morse.gp.kac_rice`) needs a loss with
continuous second derivatives, which the surrogate's paths have. Those of a Matern-3/2 process have
none; it stands in for a loss with kinks. If neither is preferred beforehand, the samples leave it
the weight

.. math:: w = \frac{1}{1 + e^{\Delta}} ,

:math:`\Delta` the gain in log evidence of the surrogate, hyper-parameters of both chosen anew
(Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, section 5.2). Evidence is
maximised over as many hyper-parameters in both, not averaged. The weight is no bound: there are
other processes.
"""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2, Matern
from lightning_morse.gp.process import GaussianProcess, SurrogateError


def kinked_weight(surrogate: GaussianProcess, losses: Array, lower: Array, upper: Array) -> float:
    """Weight of a rougher process beside the surrogate, in lieu of the probability of kinks.

    Args:
        surrogate: The surrogate.
        losses: The losses that it was fitted to, not warped, shape ``(n,)``.
        lower: Lower corner of its box, shape ``(d,)``.
        upper: Upper corner, same shape.

    Returns:
        In [0, 1]; 0 where the two cannot be compared, because one of them has no fit.
    """
    warped = math.isfinite(surrogate.warp.scale)

    def evidence(kernel: Matern) -> float:
        found = fit(surrogate.x, losses, lower, upper, kernel, warped, start=surrogate)
        return found.log_evidence

    try:
        gain = evidence(surrogate.kernel) - evidence(MATERN_3_2)
    except SurrogateError:
        return 0.0
    return float(np.exp(-np.logaddexp(0.0, gain)))

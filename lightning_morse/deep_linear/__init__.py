"""Deep linear networks: the loss landscape that is known in closed form.

This package re-exports the names of the following modules:

- :mod:`lightning_morse.deep_linear.moments`: second moments of the data.
- :mod:`lightning_morse.deep_linear.network`: layers, loss, gradient.
- :mod:`lightning_morse.deep_linear.adjacency_matrix`: the network and its flow as one matrix.
- :mod:`lightning_morse.deep_linear.flow`: the gradient flow, integrated numerically.
- :mod:`lightning_morse.deep_linear.conservation`: balancedness, under the flow and under descent.
- :mod:`lightning_morse.deep_linear.spectrum`: modes of the data, critical values.
- :mod:`lightning_morse.deep_linear.critical_points`: kind and index of critical points.
- :mod:`lightning_morse.deep_linear.saddles`: balanced critical points and their directions.
- :mod:`lightning_morse.deep_linear.critical_graph`: the Morse graph of the critical values.
- :mod:`lightning_morse.deep_linear.dynamics`: the time course of a single mode.
- :mod:`lightning_morse.deep_linear.weight_decay`: chains with weight decay.

These work on float64 NumPy arrays. The other modules connect them with training runs of PyTorch
modules; :class:`~lightning_morse.deep_linear.linear_run.LinearRun` brings them together. Nothing
here imports Lightning. Source of the whole: Wendin and Altafini, "Gradient Flow Equations for Deep
Linear Neural Networks" (arXiv 2511.10362).
"""

from lightning_morse.deep_linear.adjacency_matrix import adjacency, adjacency_flow, layers_of
from lightning_morse.deep_linear.conservation import (
    balance,
    balance_change,
    delta_balance,
    drift,
    is_balanced,
)
from lightning_morse.deep_linear.critical_graph import mode_graph
from lightning_morse.deep_linear.critical_points import PointKind, classify, morse_index
from lightning_morse.deep_linear.dynamics import (
    half_time,
    learning_time,
    mode_strength,
    mode_velocity,
)
from lightning_morse.deep_linear.flow import integrate
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import gradient, loss, product, residual, widths
from lightning_morse.deep_linear.saddles import SaddleDirection, representative, saddle_directions
from lightning_morse.deep_linear.spectrum import (
    CriticalLevel,
    Modes,
    critical_levels,
    data_modes,
    global_minimum,
    mode_strengths,
    n_critical_values,
    staircase,
)
from lightning_morse.deep_linear.weight_decay import (
    ChainPoint,
    chain_critical_points,
    existence_threshold,
)

__all__ = [
    "ChainPoint",
    "CriticalLevel",
    "Modes",
    "Moments",
    "PointKind",
    "SaddleDirection",
    "adjacency",
    "adjacency_flow",
    "balance",
    "balance_change",
    "chain_critical_points",
    "classify",
    "critical_levels",
    "data_modes",
    "delta_balance",
    "drift",
    "existence_threshold",
    "global_minimum",
    "gradient",
    "half_time",
    "integrate",
    "is_balanced",
    "layers_of",
    "learning_time",
    "loss",
    "mode_graph",
    "mode_strength",
    "mode_strengths",
    "mode_velocity",
    "morse_index",
    "n_critical_values",
    "product",
    "representative",
    "residual",
    "saddle_directions",
    "staircase",
    "widths",
]

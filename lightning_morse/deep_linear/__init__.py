"""Deep linear networks: the loss landscape that is known in closed form.

One name for what the modules below hold:

- :mod:`lightning_morse.deep_linear.network`: layers, adjacency matrix, loss, gradient flow.
- :mod:`lightning_morse.deep_linear.conservation`: what the flow conserves, and gradient descent
does
  not.
- :mod:`lightning_morse.deep_linear.spectrum`: modes of the data, critical values.
- :mod:`lightning_morse.deep_linear.critical_points`: kind and index of critical points, their
graph.
- :mod:`lightning_morse.deep_linear.dynamics`: one mode in time.
- :mod:`lightning_morse.deep_linear.weight_decay`: chains with weight decay.

Everything is float64 NumPy; nothing imports lightning. Source of the whole: Wendin and Altafini,
"Gradient Flow Equations for Deep Linear Neural Networks" (arXiv 2511.10362).
"""

from lightning_morse.deep_linear.conservation import (
    balance,
    balance_change,
    delta_balance,
    drift,
    is_balanced,
)
from lightning_morse.deep_linear.critical_points import (
    PointKind,
    SaddleDirection,
    classify,
    mode_graph,
    morse_index,
    representative,
    saddle_directions,
)
from lightning_morse.deep_linear.dynamics import (
    half_time,
    learning_time,
    mode_strength,
    mode_velocity,
)
from lightning_morse.deep_linear.network import (
    Moments,
    adjacency,
    adjacency_flow,
    gradient,
    integrate,
    layers_of,
    loss,
    product,
    residual,
    widths,
)
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

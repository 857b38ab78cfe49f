"""Names for the types of arrays and of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # views of results are read where torch is not installed
    import torch

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
# Numbers of cells, of points, of Morse sets.
Cells: TypeAlias = NDArray[np.int64]
# From points, shape (n, d), float64, to losses, shape (n,).
Loss: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"

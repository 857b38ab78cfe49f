r"""The sharpness beyond which an optimizer is not stable: the edge of stability.

Gradient descent with learning rate :math:`\eta` diverges along an eigenvector of the Hessian whose
eigenvalue is above :math:`2 / \eta`; full-batch training hovers there (Cohen, Kaur, Li, Kolter,
Talwalkar 2021, arXiv 2103.00065, with the thresholds for momentum in its appendix B). With batches
training stays below. For optimizers that precondition there is no such number for the Hessian
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

UNKNOWN = 0.0


def stability_limit(optimizers: Iterable[Any]) -> float:
    r"""The sharpness of the loss beyond which ``torch.optim.SGD`` is not stable.

    With learning rate :math:`\eta`, momentum :math:`\beta`, dampening :math:`\delta` and weight
    decay :math:`w` it is :math:`2 (1 + \beta) / ((1 - \delta) \eta) - w`, with Nesterov's momentum
    :math:`2 (1 + \beta) / ((1 + 2 \beta) \eta) - w`. Weight decay adds to every curvature; where
    parameter groups differ in it the smallest counts.

    Args:
        optimizers: Those of a trainer.

    Returns:
        0 if there is not exactly one, it is of another class (also one derived from SGD), its
        groups differ in anything else, or a number is on an accelerator, where reading it would
        make training wait.

    Example:
        >>> w = [torch.nn.Parameter(torch.zeros(2))]
        >>> [stability_limit([torch.optim.SGD(w, lr=0.1, momentum=m)]) for m in (0.0, 0.5)]
        [20.0, 30.0]
        >>> stability_limit([torch.optim.Adam(w, lr=0.1)])
        0.0
    """
    given = list(optimizers)
    if len(given) != 1 or type(given[0]) is not torch.optim.SGD:
        return UNKNOWN
    groups = given[0].param_groups
    found = {_limit_of(group) for group in groups}
    limit = found.pop() if len(found) == 1 else None
    decays = [_number(group["weight_decay"]) for group in groups]
    if limit is None or any(decay is None for decay in decays):
        return UNKNOWN
    return max(UNKNOWN, limit - min(decay for decay in decays if decay is not None))


def _limit_of(group: Mapping[str, Any]) -> float | None:
    """That of one parameter group without weight decay; None if unknown."""
    rate, momentum = _number(group["lr"]), _number(group["momentum"])
    dampening = _number(group["dampening"])
    if rate is None or momentum is None or dampening is None or group["maximize"]:
        return None
    # torch dampens only where there is momentum.
    step = rate * (1 - dampening) if momentum else rate
    if group["nesterov"]:
        step *= 1 + 2 * momentum
    return 2 * (1 + momentum) / step if step > 0 else None


def _number(value: Any) -> float | None:
    on_accelerator = isinstance(value, Tensor) and value.device.type != "cpu"
    return None if on_accelerator else float(value)

"""Which weights a record is of, and what they are later in the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_morse.slices.parameters import (
    count_of_weights,
    flatten,
    has_lazy_parameters,
    trainable_parameters,
)
from lightning_morse.slices.subspace import AffineSubspace


class RecordedWeights:
    """The weights that were trainable at the first state of a record, known by name.

    Callbacks freeze and unfreeze layers in the middle of a run, and all states of a record must
    hold the same weights.

    Args:
        subspace: States are coordinates of the weights in it; None for the weights themselves.

    Attributes:
        names: Names of the parameters, in order; empty until they are chosen.
        count: Number of real numbers in them.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> recorded = RecordedWeights()
        >>> recorded.choose(net)
        >>> _ = net.weight.requires_grad_(False)
        >>> recorded.count, len(recorded.state(net)), recorded.trainable_beside(net)
        (3, 3, 0)
    """

    def __init__(self, subspace: AffineSubspace | None = None) -> None:
        self._subspace = subspace
        self.names: tuple[str, ...] = ()
        self.count = 0

    def choose(self, module: nn.Module) -> None:
        """Choose those that are trainable now.

        Raises:
            ValueError: As :func:`~lightning_morse.slices.parameters.trainable_parameters`.
        """
        trainable = trainable_parameters(module)
        self.names = tuple(name for name, _ in trainable)
        self.count = count_of_weights(parameter for _, parameter in trainable)

    def count_in(self, module: nn.Module) -> int:
        """How many of them a module has: another number once layers have been replaced."""
        return count_of_weights(self._found(module))

    def misfit(self, module: nn.Module) -> str:
        """Why the subspace is none of these weights; empty if it is, or nobody can know yet."""
        if self._subspace is None or has_lazy_parameters(module):
            return ""
        trainable = (p for p in module.parameters() if p.requires_grad)
        count = self.count or count_of_weights(trainable)
        if self._subspace.n_parameters == count:
            return ""
        return (
            f"subspace must be one of the {count} trainable weights of {type(module).__name__}, "
            f"got one of {self._subspace.n_parameters}. Make it from runs of the same network"
        )

    def state(self, module: nn.Module) -> Tensor:
        """Their present values or coordinates, on the CPU, whether or not they are trainable."""
        weights = flatten(self._found(module))
        return (weights if self._subspace is None else self._subspace.project(weights)).cpu()

    def trainable_beside(self, module: nn.Module) -> int:
        """How many other weights are trainable now."""
        own = set(map(id, self._found(module)))
        return count_of_weights(
            p for p in module.parameters() if p.requires_grad and id(p) not in own
        )

    def _found(self, module: nn.Module) -> list[Tensor]:
        # By all of their names: weights that are tied later on are still there.
        named = dict(module.named_parameters(remove_duplicate=False))
        return [named[name] for name in self.names if name in named]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"names": list(self.names), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the weights of a checkpoint."""
        self.names, self.count = tuple(state["names"]), int(state["count"])

"""Private attributes of Lightning for which there is no public substitute.

Each is read in one place, with the versions it was seen in, and its absence raises an error that
names it. Lightning is not imported here: its objects are only looked at.
"""

from __future__ import annotations

from typing import Any


def batches_that_stepped(trainer: Any) -> int:
    """The step under which a Lightning trainer logs: batches after which an optimizer stepped.

    ``trainer.global_step`` is no substitute: it counts every step of every optimizer, so curves
    drawn against it would not line up with those that Lightning logs itself.

    Seen in pytorch_lightning 2.2.0 and 2.6.6, and in lightning 2.6.6.

    Args:
        trainer: A trainer of either Lightning package.

    Raises:
        RuntimeError: If this version of Lightning keeps the count elsewhere.
    """
    try:
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    except AttributeError as error:
        raise _gone("trainer.fit_loop.epoch_loop._batches_that_stepped", "2.2 to 2.6", error) from (
            error
        )


def checks_at_end_of_training_epoch(callback: Any) -> bool:
    """Whether a callback such as EarlyStopping looks at its value when an epoch of training ends.

    Else it looks after validation, and so does a callback that does not say.

    Seen in pytorch_lightning 2.2.0 and 2.6.6, and in lightning 2.6.6.
    """
    return bool(getattr(callback, "_check_on_train_epoch_end", False))


def _gone(attribute: str, versions: str, error: AttributeError) -> RuntimeError:
    return RuntimeError(
        f"Lightning must have the private attribute {attribute}, as versions {versions} have, got "
        f"AttributeError: {error}. Install one of these versions"
    )

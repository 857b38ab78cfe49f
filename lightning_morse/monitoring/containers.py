"""Walks through the plain containers of a state: dictionaries, lists and tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of nested containers in which something else stands for some of what they hold.

    Args:
        value: Mappings, of which the copy has dictionaries, lists and tuples; anything else, named
            tuples too, is a leaf.
        change: Called with every container and leaf, the outermost first. It returns what stands
            for it, which is not walked into, or the very same for what is to be left.

    Returns:
        The copy.

    Example:
        >>> replaced({"a": [1, "b"], "c": (2,)}, lambda v: -v if isinstance(v, int) else v)
        {'a': [-1, 'b'], 'c': (-2,)}
    """
    instead = change(value)
    if instead is not value:
        return instead
    if isinstance(value, Mapping):
        return {k: replaced(v, change) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(replaced(v, change) for v in value)
    return value


def contents(value: Any) -> Iterator[Any]:
    """All containers and leaves, named tuples walked into as well, in no particular order.

    Example:
        >>> sum(isinstance(v, int) for v in contents({"a": [1, "b"], "c": (2,)}))
        2
    """
    todo = [value]  # no recursion: a checkpoint an epoch asks often
    while todo:
        value = todo.pop()
        yield value
        if isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, list | tuple):
            todo.extend(value)

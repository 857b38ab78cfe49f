"""Results and lengths of time in words."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

# What is said of the number of attractors where nothing is claimed.
NO_CLAIM = "no certain attractor"
# What is said of a Morse set of which it is not certain that it hides no attractor.
UNRESOLVED = "may hide a minimum"
# From here on a bound is written by what it lacks: four decimals would no longer tell it from 1.
_WRITTEN_BY_WHAT_IT_LACKS = 0.9999
# A little more than the distance from 1 to the double below it: what ``1 - mu`` may be off by.
_ROUNDING = Decimal("1.2e-16")


def printable(text: str) -> str:
    r"""Text from a file or a name, with everything replaced that could control a terminal.

    Also what no terminal can show: halves of characters, from names that are not UTF-8.

    Args:
        text: The text; line breaks are replaced, too.

    Example:
        >>> printable("a\x1b[2Jb"), printable("a\nb"), printable("\udcff")
        ('a?[2Jb', 'a?b', '?')
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def kind_of_set(is_attractor: bool, resolved: bool, index: int | None, dim: int) -> str:
    """Name the kind of a Morse set, as in tables.

    Args:
        is_attractor: Whether it is an attractor.
        resolved: Whether it hides no further attractor.
        index: Morse index of its critical points, None where that is not certain.
        dim: Dimension of the box.

    Example:
        >>> kind_of_set(True, True, 0, 2), kind_of_set(True, False, None, 2)
        ('attractor', 'attractor(s)')
        >>> [kind_of_set(False, True, index, 2) for index in (1, 2, None)]
        ['saddle', 'repeller', 'saddle or repeller']
        >>> kind_of_set(False, False, None, 2)
        'may hide a minimum'
    """
    if is_attractor:
        return "attractor" if resolved else "attractor(s)"
    if not resolved:
        return UNRESOLVED
    if index is None:
        return "saddle or repeller"
    return "repeller" if index == dim else "saddle"


def kind_with_index(resolved: bool, index: int | None, dim: int) -> str:
    """Name the kind of a Morse set that is no attractor, as in figures.

    Where saddles differ, which is from three axes on, they are named with their index.

    Args:
        resolved: As in :func:`kind_of_set`.
        index: As there.
        dim: As there.

    Example:
        >>> kind_with_index(True, 1, 3), kind_with_index(True, 3, 3), kind_with_index(True, 1, 2)
        ('saddle (index 1)', 'repeller', 'saddle')
    """
    kind = kind_of_set(False, resolved, index, dim)
    return f"{kind} (index {index})" if kind == "saddle" and dim > 2 else kind


def short_of_one(mu: float) -> str:
    """Write ``mu``, a lower bound on a probability, with no more digits than it has evidence for.

    Two decimals, or one digit of what it lacks to 1. All of terminal, tab, tables and figures write
    it by this function; records of views hold its text. It is not rounded up by more than the
    rounding of a double.

    Example:
        >>> [short_of_one(mu) for mu in (0.95879, 0.9834, 0.9925, 1 - 3.21e-8, 0.0)]
        ['0.95', '0.98', '0.992', '1 - 4e-08', '0']
    """
    lacking = max(Decimal(repr(1 - float(mu))) - _ROUNDING, _ROUNDING)
    if mu < _WRITTEN_BY_WHAT_IT_LACKS:
        unit = Decimal(1).scaleb(min(-2, lacking.adjusted()))
        return f"{_floored(mu, str(unit)).normalize():f}"
    unit = Decimal(1).scaleb(lacking.adjusted())
    return f"1 - {float(lacking.quantize(unit, ROUND_CEILING)):.0e}"


def _floored(mu: float, unit: str) -> Decimal:
    # Through the shortest decimal: 0.57 is not to become 0.569 because a double is a little less.
    return Decimal(repr(float(mu))).quantize(Decimal(unit), ROUND_FLOOR)


def percent(share: float) -> str:
    """Write a share in percent; 0 % and 100 % are kept for nothing and everything.

    Example:
        >>> percent(0.291), percent(0.004), percent(0.0)
        ('29 %', '< 1 %', '0 %')
    """
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{share:.0%}".replace("%", " %")


_UNITS = (("a second", 1.0), ("a minute", 60.0), ("an hour", 3600.0), ("a day", 86400.0))


def length_of_time(seconds: float) -> str:
    """Write a length of time as people say it.

    Args:
        seconds: Its length; NaN or infinite if unknown.

    Example:
        >>> [length_of_time(seconds) for seconds in (0.2, 1.2, 7, 44, 57, 240)]
        ... # doctest: +NORMALIZE_WHITESPACE
        ['less than a second', 'about a second', 'about 7 seconds', 'about 40 seconds',
         'about a minute', 'about 4 minutes']
        >>> [length_of_time(seconds) for seconds in (2600, 5400, 1e5, float("nan"))]
        ['about 40 minutes', 'about 2 hours', 'about a day', 'an unknown time']
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 1:
        return "less than a second"
    for k, (one, size) in enumerate(_UNITS):
        exact = seconds / size
        count = round(exact) if exact < 10 else 10 * round(exact / 10)
        if k + 1 == len(_UNITS) or count * size < _UNITS[k + 1][1]:
            return f"about {one}" if count == 1 else f"about {count} {one.split()[1]}s"
    raise AssertionError("the last unit takes all")

"""Tables as aligned text, for terminals, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_morse.words import printable

# What a column of numbers may hold besides numbers.
_NO_NUMBER = ("", "?")


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in columns, those of numbers flush right.

    Args:
        head: Names of the columns.
        rows: One text for each column; what could control a terminal is replaced.

    Example:
        >>> print(aligned(["set", "what", "loss"], [["0", "attractor", "0.12"], ["1", "?", "3"]]))
        set  what       loss
          0  attractor  0.12
          1  ?             3
    """
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    columns = list(zip(*lines, strict=True))
    wide = [max(map(len, column)) for column in columns]
    right = [all(map(_is_number, column[1:])) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(n) if r else cell.ljust(n)
            for cell, n, r in zip(line, wide, right, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Args:
        head: Names of the columns.
        rows: As in :func:`aligned`; a bar in a text is escaped.

    Example:
        >>> print(markdown(["set", "loss"], [["0", "0.12"]]))
        | set | loss |
        |---|---|
        | 0 | 0.12 |
    """
    lines = [[printable(cell).replace("|", r"\|") for cell in row] for row in (head, *rows)]
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], "|---" * len(head) + "|", *written[1:]])


def _is_number(cell: str) -> bool:
    """Whether it is a number, with a deviation or a per cent sign maybe, or nothing is known."""
    return cell in _NO_NUMBER or (
        (cell[0].isdigit() or cell[0] in "-<>±.") and not cell[-1].isalpha()
    )


def written(form: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in one of the forms.

    Args:
        form: ``"markdown"``, or ``"text"`` for columns that are aligned.
        head: Names of the columns.
        rows: As in :func:`aligned`.

    Raises:
        ValueError: If there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return FORMS[form](head, rows)


# How a table may be written, by the name of the form.
FORMS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], str]] = {
    "text": aligned,
    "markdown": markdown,
}

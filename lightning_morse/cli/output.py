"""How the command speaks: lines, tables, complaints; and whether it can write a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_morse.files.regular import special_kind
from lightning_morse.tables import FORMS, written
from lightning_morse.words import printable, short_of_one


def fail(message: str) -> int:
    """Say what is wrong; the exit status of a command that has failed."""
    # A message may quote names and texts from files.
    lines = map(printable, message.splitlines())
    print("lightning-morse: " + "\n".join(lines), file=sys.stderr)
    return 1


def say(text: str) -> None:
    """Print a line that may hold names or texts from files."""
    print(printable(text))


class Complaints:
    """Complains of what cannot be read or is left out, and knows whether there was anything."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self, name: str, error: str) -> None:
        """Complain of an error in what has a name, or of what is left out."""
        self.code = fail(f"{name}: {error}" if name else f"left out: {error}")


def counted(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def print_table(rows: Sequence[dict[str, Any]], form: str) -> None:
    """Print rows under the names of their columns; of none, nothing."""
    if rows:
        head = list(rows[0])
        print(written(form, head, [[_written(k, row[k]) for k in head] for row in rows]))


def _written(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "mu":
        return short_of_one(value)  # a bound: never rounded up
    if name in ("undecided", "escape", "volume") or (name == "basin" and isinstance(value, float)):
        return f"{value:.1%}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def why_not_written(path: Path) -> str:
    """Why a file cannot be written, as far as that can be told before; empty if it can."""
    if kind := special_kind(path):
        return f"it is {kind}; --output must be a file, a new one or a regular one to replace"
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written to"


def add_format(command: argparse.ArgumentParser) -> None:
    """Add the option that chooses how tables are printed."""
    command.add_argument(
        "--format", choices=list(FORMS), default="text", help="of tables: aligned text (text)"
    )

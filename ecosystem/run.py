"""Short trainings inside libraries that build on Lightning, each without and with the callback.

    make ecosystem
    python ecosystem/run.py [NAME ...] [--into docs/ecosystem.md]

The data is random and made here; nothing is downloaded. Printed is a table, one row per case. The
exit status is 1 if a run changed, an analysis failed, or a library cannot be imported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from cases import CASES
from twice import Case, Outcome, compared

import lightning_morse as lm

COLUMNS = (
    *("library", "model", "steps", "run", "analyses", "failed"),
    "each analysis: where the weights are (mu)",
)
COMMON = ("torch", "lightning", "numpy")
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)


def row_of(case: Case, outcome: Outcome) -> tuple[str, ...]:
    run = f"changed: {', '.join(outcome.differs)}" if outcome.differs else "unchanged"
    if not outcome.repeatable:
        run += " (it does not repeat itself without the callback either)"
    made = len(outcome.said) + outcome.failed
    figures = (str(outcome.steps), run, str(made), str(outcome.failed))
    return (*named(case), *figures, ", ".join(outcome.said) or "none")


def row_without(case: Case, trouble: str) -> tuple[str, ...]:
    return (*named(case), "", trouble, "", "", "")


def named(case: Case) -> tuple[str, str]:
    return f"{case.library} {version(case.library)}".strip(), case.model


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def table_of(rows: Iterable[tuple[str, ...]]) -> str:
    lines = (COLUMNS, ("---",) * len(COLUMNS), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--into", type=Path, help="page in which to replace the table")
    arguments = parser.parse_args()
    into = arguments.into and arguments.into.resolve()
    unknown = [name for name in arguments.names if name not in CASES]
    if unknown:
        parser.error(f"names must be of {', '.join(CASES)}, got {', '.join(unknown)}")

    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows, off = [], 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # libraries write logs and checkpoints where they are run
        for name in arguments.names or CASES:
            case = CASES[name]
            try:
                outcome = compared(case)
            except ImportError as error:
                rows.append(row_without(case, f"not importable ({one_line(error)})"))
                off += 1
            except Exception as error:
                logging.getLogger(__name__).exception("%s", name)
                rows.append(row_without(case, f"ended ({one_line(error)})"))
                off += 1
            else:
                rows.append(row_of(case, outcome))
                off += not outcome.holds
                for message in outcome.messages:
                    print(f"{name}: {message}", file=sys.stderr)
            print(f"{name}: {' | '.join(rows[-1][2:])}", file=sys.stderr, flush=True)
    versions = ", ".join(
        (f"lightning_morse {lm.__version__}", *(f"{name} {version(name)}" for name in COMMON))
    )
    text = f"{table_of(rows)}\n\n{versions}, Python {platform.python_version()}.\n"
    print(text)
    if into is not None:
        page = into.read_text()
        into.write_text(TABLE.sub(lambda _: f"\n{text}\n", page))
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())

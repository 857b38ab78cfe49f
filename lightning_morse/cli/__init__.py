"""The command ``lightning-morse``: reports, tables and comparisons of runs, and analyses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lightning_morse.cli import about_functions, about_runs, about_weights
from lightning_morse.cli.output import fail


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process if None.

    Returns:
        0 if all went well, 1 if something could not be read, done or written. Wrong usage exits
        with 2.
    """
    args = _parser().parse_args(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
        return code
    except BrokenPipeError:  # a reader such as head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return fail("there is not enough memory; fewer cells (--resolution) take less")
    except (OSError, ValueError) as error:
        return fail(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-morse", description="Morse graphs of the loss landscape of training runs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about_runs.add_commands(commands)
    about_functions.add_command(commands)
    about_weights.add_commands(commands)
    return parser

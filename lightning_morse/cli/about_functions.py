"""The command that analyses a function of the user."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from lightning_morse.cli.objects import imported
from lightning_morse.cli.output import add_format, fail, say, why_not_written
from lightning_morse.view.box_record import MAX_AXES
from lightning_morse.words import short_of_one

# Cells per axis unless told otherwise: most, and as many as make no more cells than these.
_CELLS_PER_AXIS, _USUAL_CELLS = 128, 2**16
_FEWEST_CELLS = 4  # per axis, as in an analysis
# An analysis takes about 1 kB for each of the cells times the corners of one (measured, 3 and 4
# axes): this is some 11 GB.
_MOST_CELLS_TIMES_CORNERS = 2**24


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of a parser."""
    command = commands.add_parser("analyze", help="analyse a function given by its import path")
    _add_arguments_of_analyze(command)
    command.set_defaults(run=_analyze)


def _add_arguments_of_analyze(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--callable",
        required=True,
        metavar="MODULE:FUNCTION",
        help="takes a float64 tensor of shape (n, d), returns n losses",
    )
    for name in ("lower", "upper"):
        command.add_argument(
            f"--{name}",
            required=True,
            nargs="+",
            type=float,
            metavar="X",
            help=f"{name} corner of the box, one number per axis",
        )
    command.add_argument("--samples", type=int, default=128, help="loss evaluations (128)")
    command.add_argument(
        "--resolution",
        type=int,
        help=f"cells per axis ({_CELLS_PER_AXIS}; from three axes on as many as make "
        f"{_USUAL_CELLS} cells)",
    )
    command.add_argument(
        "--confidence", type=float, default=0.95, help="level of confidence (0.95)"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the samples (0)")
    command.add_argument("-o", "--output", type=Path, help="archive to write, such as found.npz")
    add_format(command)


def _analyze(args: argparse.Namespace) -> int:
    if len(args.lower) != len(args.upper):
        return fail(
            f"--lower and --upper must have one number per axis, got {len(args.lower)} and "
            f"{len(args.upper)}"
        )
    try:
        loss = imported(args.callable)
    except (ImportError, AttributeError, TypeError) as error:
        return fail(f"--callable {args.callable}: {error}")
    if args.output is not None and (fault := why_not_written(args.output)):
        return fail(f"{args.output}: {fault}")
    resolution = _usual_resolution(len(args.lower)) if args.resolution is None else args.resolution
    if fault := _why_too_many_cells(resolution, len(args.lower)):
        return fail(fault)
    from lightning_morse.analysis.pipeline import analyze
    from lightning_morse.analysis.sentence import sentence

    result = analyze(
        loss,
        args.lower,
        args.upper,
        n_samples=args.samples,
        resolution=resolution,
        confidence=args.confidence,
        seed=args.seed,
    )
    bound = f", mu >= {short_of_one(result.mu)}" if result.mu else ""
    shares = f"undecided {result.undecided:.1%}, escape {result.escape:.1%}"
    print(sentence(result))
    print(f"{result.claim_in_full}{bound}; {shares}")
    print(result.table(args.format))
    if args.output is not None:
        result.save(args.output)
        # What can be shown has at most three axes.
        shown = f"; to look at it: lightning-morse report {shlex.quote(str(args.output))}"
        say(f"written: {args.output}{shown if len(args.lower) <= MAX_AXES else ''}")
    return 0


def _usual_resolution(dim: int) -> int:
    cells = _CELLS_PER_AXIS
    while cells > _FEWEST_CELLS and cells**dim > _USUAL_CELLS:
        cells -= 1
    return cells


def _why_too_many_cells(resolution: int, dim: int) -> str:
    """Why no analysis has so many cells per axis, before any time is spent; empty if it may."""
    cells, corners = resolution**dim, 2**dim
    if cells * corners <= _MOST_CELLS_TIMES_CORNERS:
        return ""
    most = int((_MOST_CELLS_TIMES_CORNERS / corners) ** (1 / dim) + 1e-9)
    fault = f"a grid of {cells:,} cells on {dim} axes does not fit into memory"
    return f"{fault}; --resolution may be {most} at most" if most >= _FEWEST_CELLS else fault

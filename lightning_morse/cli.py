"""The command ``lightning-morse``: reports, tables and comparisons of runs, and analyses."""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_morse.view.record import ViewRecord
from lightning_morse.view.report import report
from lightning_morse.view.runs import Run, read_runs
from lightning_morse.words import NO_CLAIM, kind_of_set, short_of_one

_RUN = "log directory of a run, a folder of runs, or an archive of MorseAnalysis.save"
_KILOBYTES_BELOW = 1e5  # bytes; larger reports are given in megabytes


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
    except (OSError, ValueError) as error:
        return _complain(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-morse", description="Morse graphs of the loss landscape of training runs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("report", help="write an HTML page that needs no network")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    command.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the page (report.html)"
    )
    command.set_defaults(run=_report)

    command = commands.add_parser("show", help="print the analyses of a run and its Morse sets")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    command.set_defaults(run=_show)

    command = commands.add_parser("compare", help="print one row per run, lowest loss first")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    command.add_argument("--csv", action="store_true", help="print comma-separated values")
    command.add_argument(
        "--sort", metavar="COLUMN", default="loss", help="column to sort by (loss)"
    )
    command.set_defaults(run=_compare)

    command = commands.add_parser("analyze", help="analyse a function given by its import path")
    _add_arguments_of_analyze(command)
    command.set_defaults(run=_analyze)
    return parser


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
    command.add_argument("--resolution", type=int, default=128, help="cells per axis (128)")
    command.add_argument(
        "--confidence", type=float, default=0.95, help="level of confidence (0.95)"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the samples (0)")
    command.add_argument("-o", "--output", type=Path, help="archive to write, such as found.npz")


def _complain(message: str) -> int:
    print(f"lightning-morse: {message}", file=sys.stderr)
    return 1


def _read(paths: Iterable[str]) -> tuple[list[Run], bool]:
    """Read runs and name their unreadable records; the second value says whether there is none."""
    runs = [run for path in paths for run in read_runs(path)]
    whole = True
    for run in runs:
        for reading in run.readings:
            if reading.error:
                whole = False
                _complain(f"{run.name}: {reading.error}")
    return runs, whole


def _report(args: argparse.Namespace) -> int:
    runs, whole = _read(args.runs)
    page = report(runs).encode()
    args.output.write_bytes(page)
    count = sum(len(run.readings) for run in runs)
    small = len(page) <= _KILOBYTES_BELOW
    size = f"{len(page) / 1e3:.0f} kB" if small else f"{len(page) / 1e6:.1f} MB"
    print(f"{args.output}: {_counted(count, 'record')} of {_counted(len(runs), 'run')}, {size}")
    return 0 if whole else 1


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _show(args: argparse.Namespace) -> int:
    runs, whole = _read(args.runs)
    for run in runs:
        print(run.name)
        rows = _without_empty_switches([_facts(r.record) for r in run.readings if r.record])
        if not rows:
            continue
        _print_table([{k: v for k, v in row.items() if k != "claim"} for row in rows])
        assert run.last is not None
        said = [run.last.facts["claim"], run.last.facts.get("verdict")]
        print(
            f"\nMorse sets at step {run.last.step}: {_written('', '; '.join(filter(None, said)))}"
        )
        _print_table(
            [
                {
                    "set": i,
                    "type": kind_of_set(
                        m["attractor"], m["resolved"], m["index"], len(run.last.shape)
                    ),
                    "index": "?" if m["index"] is None else m["index"],
                    "loss": m["loss"],
                    "volume": m["volume"],
                    "basin": m["basin"],
                    "mu": m["mu"],
                }
                for i, m in enumerate(run.last.sets)
            ]
        )
        print()
    return 0 if whole else 1


def _facts(record: ViewRecord) -> dict[str, Any]:
    scalars = record.bare_scalars()
    basin = scalars.get("basin_current")
    names = {-1.0: "undecided", -2.0: "escapes"}
    return {
        "step": record.step,
        "epoch": record.epoch,
        "loss": record.facts["loss_now"],
        "attractors": sum(m["attractor"] for m in record.sets),
        "unresolved": sum(not m["resolved"] for m in record.sets),
        "mu": _bound(record.facts),
        "basin": None if basin is None else names.get(basin, f"{basin:.0f}"),
        "barrier": scalars.get("barrier") or None,  # monitors publish 0 where it is unknown
        "switches": scalars.get("basin_switches"),
        "undecided": record.facts["undecided"],
        "escape": record.facts["escape"],
    }


def _bound(facts: Mapping[str, Any]) -> float | None:
    """``mu``, or None where nothing is claimed; older records give one there, too."""
    claims = facts["mu"] > 0 and facts["claim"] != NO_CLAIM
    return float(facts["mu"]) if claims else None


def _without_empty_switches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the column of switches if no record has it."""
    if any(row["switches"] is not None for row in rows):
        return rows
    return [{k: v for k, v in row.items() if k != "switches"} for row in rows]


def _compare(args: argparse.Namespace) -> int:
    runs, whole = _read(args.runs)
    names = dict.fromkeys(k for run in runs for k in run.hparams)
    rows = []
    for run in runs:
        if run.last is not None:
            given = {f"hparams.{k}": run.hparams.get(k) for k in names}
            rows.append({"run": run.name, **given, **_facts(run.last)})
    rows = _without_empty_switches(rows)
    if not rows:
        return _complain("none of the records can be read, so there is nothing to compare")
    if args.sort not in rows[0]:
        return _complain(f"--sort must be one of {', '.join(rows[0])}, got {args.sort}")
    rows.sort(key=lambda row: _rank(row[args.sort]))
    if args.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        # The folders that all runs share are left out of their names.
        shared = os.path.commonpath([os.path.dirname(row["run"]) for row in rows])
        _print_table([{**row, "run": os.path.relpath(row["run"], shared or ".")} for row in rows])
    return 0 if whole else 1


def _rank(value: Any) -> tuple[int, float, str]:
    """Sort numbers first, then text, then missing values."""
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, (int, float)) and not math.isnan(value):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under the names of their columns, numbers flush right."""
    head = list(rows[0])
    cells = [[_written(k, row[k]) for k in head] for row in rows]
    wide = [max(len(k), *(len(c[j]) for c in cells)) for j, k in enumerate(head)]
    right = [all(not isinstance(row[k], str) or row[k] == "?" for row in rows) for k in head]
    for line in [head, *cells]:
        padded = [
            c.rjust(n) if r else c.ljust(n) for c, n, r in zip(line, wide, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _written(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "mu":
        return short_of_one(value)  # a bound: never rounded up
    if name in ("undecided", "escape", "volume") or (name == "basin" and isinstance(value, float)):
        return f"{value:.1%}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    # Text from a file must not control the terminal.
    return "".join(c if c.isprintable() else "?" for c in text)


def _analyze(args: argparse.Namespace) -> int:
    if len(args.lower) != len(args.upper):
        return _complain(
            f"--lower and --upper must have one number per axis, got {len(args.lower)} and "
            f"{len(args.upper)}"
        )
    try:
        loss = _imported(args.callable)
    except (ImportError, AttributeError, TypeError) as error:
        return _complain(f"--callable {args.callable}: {error}")
    if args.output is not None and not args.output.parent.is_dir():
        return _complain(f"{args.output}: there is no folder {args.output.parent}")
    from lightning_morse.analysis.pipeline import analyze

    result = analyze(
        loss,
        args.lower,
        args.upper,
        n_samples=args.samples,
        resolution=args.resolution,
        confidence=args.confidence,
        seed=args.seed,
    )
    print(f"{result.claim}, undecided {result.undecided:.1%}, escape {result.escape:.1%}")
    print(result.table())
    if args.output is not None:
        result.save(args.output)
        print(f"{args.output}: lightning-morse report {args.output}")
    return 0


def _imported(name: str) -> Callable[..., Any]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ImportError("expected MODULE:FUNCTION, such as mypackage.losses:himmelblau")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as with python -m
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


if __name__ == "__main__":
    sys.exit(main())

"""Commands about runs: their report, their analyses, their comparison."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_morse.cli.output import (
    Complaints,
    add_format,
    counted,
    fail,
    print_table,
    say,
    why_not_written,
)
from lightning_morse.view.record import ViewRecord
from lightning_morse.view.report import write_report
from lightning_morse.view.runs import Run, read_runs
from lightning_morse.words import NO_CLAIM, kind_of_set, printable

_RUN = "log directory of a run, a folder of runs, or an archive of MorseAnalysis.save"
_KILOBYTES_BELOW = 1e5  # bytes; larger reports are given in megabytes
# In ``compare`` a run stands for its last analysis, and training may have gone on since.
_LOSS = "analysed_loss"
_ABOUT_LOSS = f"{_LOSS}: on the probe batches at the step of the last analysis, not at the end"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of a parser."""
    command = commands.add_parser("report", help="write an HTML page that needs no network")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    command.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the page (report.html)"
    )
    command.set_defaults(run=_report)

    command = commands.add_parser("show", help="print the analyses of a run and its Morse sets")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    add_format(command)
    command.set_defaults(run=_show)

    about = "print one row per run, as of its last analysis, lowest loss there first"
    command = commands.add_parser("compare", help=about, description=f"{about}. {_ABOUT_LOSS}.")
    command.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    command.add_argument("--csv", action="store_true", help="print comma-separated values")
    command.add_argument(
        "--sort",
        metavar="COLUMN",
        default=_LOSS,
        help=f"column to sort by, smallest first (without it: {_LOSS})",
    )
    add_format(command)
    command.set_defaults(run=_compare)


def _found(paths: Iterable[str], complain: Complaints) -> list[Run]:
    return [run for path in paths for run in read_runs(path, partial(complain, ""))]


def _report(args: argparse.Namespace) -> int:
    complain = Complaints()
    if fault := why_not_written(args.output):
        return fail(f"{args.output}: {fault}")
    runs = _found(args.runs, complain)
    written = write_report(runs, args.output, complain)
    small = written.size <= _KILOBYTES_BELOW
    size = f"{written.size / 1e3:.0f} kB" if small else f"{written.size / 1e6:.1f} MB"
    split = f" on {counted(written.pages, 'page')} and an index" if written.pages else ""
    count = f"{counted(written.records, 'record')} of {counted(len(runs), 'run')}"
    say(f"{args.output}: {count}{split}, {size}")
    return complain.code


def _show(args: argparse.Namespace) -> int:
    complain = Complaints()
    for run in _found(args.runs, complain):
        say(run.name)
        rows, last = [], None
        for reading in run.readings:  # one at a time: a run may have thousands
            record, error = reading.tried()
            if record is None:
                complain(run.name, error)
            else:
                rows.append(_facts(record))
                last = record
        if last is None:
            continue
        if verdict := last.facts.get("verdict"):
            say(f"Step {last.step}: {verdict}")
        rows = _without_empty_switches(rows)
        print_table(rows, args.format)
        _show_sets(last, args.format)
    return complain.code


def _show_sets(record: ViewRecord, form: str) -> None:
    print()
    say(f"Morse sets at step {record.step}: {record.facts['claim']}")
    print_table(
        [
            {
                "set": i,
                "type": kind_of_set(m["attractor"], m["resolved"], m["index"], len(record.shape)),
                "index": "?" if m["index"] is None else m["index"],
                "loss": m["loss"],
                "volume": m["volume"],
                "basin": m["basin"],
                "mu": m["mu"],
            }
            for i, m in enumerate(record.sets)
        ],
        form,
    )
    print()


def _facts(record: ViewRecord, loss: str = "loss") -> dict[str, Any]:
    """What tables say of an analysis, by column; ``loss`` names that of the loss."""
    scalars = record.bare_scalars()
    basin = scalars.get("basin_current")
    names = {-1.0: "undecided", -2.0: "escapes"}
    return {
        "step": record.step,
        "epoch": record.epoch,
        loss: record.facts["loss_now"],
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
    complain = Complaints()
    runs = _found(args.runs, complain)
    names = dict.fromkeys(k for run in runs for k in run.hparams)
    rows = []
    for run in runs:
        last = run.last(partial(complain, run.name))
        if last is not None:
            given = {f"hparams.{k}": run.hparams.get(k) for k in names}
            rows.append({"run": run.name, **given, **_facts(last, _LOSS)})
    rows = _without_empty_switches(rows)
    if not rows:
        return fail("none of the records can be read, so there is nothing to compare")
    if args.sort not in rows[0]:
        return fail(f"--sort must be one of {', '.join(rows[0])}, got {args.sort}")
    rows.sort(key=lambda row: _rank(row[args.sort]))
    if args.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writerow({k: printable(k) for k in rows[0]})
        writer.writerows({k: _clean(v) for k, v in row.items()} for row in rows)
    else:
        # The folders that all runs share are left out of their names.
        shared = _shared_folder([row["run"] for row in rows])
        named = [{**row, "run": os.path.relpath(row["run"], shared or ".")} for row in rows]
        print_table(named, args.format)
        print(f"\n{_ABOUT_LOSS}")
    return complain.code


def _shared_folder(names: Sequence[str]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # some are absolute and some are not
        return ""


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _rank(value: Any) -> tuple[int, float, str]:
    """Sort numbers first, then text, then missing values."""
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, (int, float)) and not math.isnan(value):
        return 0, float(value), ""
    return 1, 0.0, str(value)

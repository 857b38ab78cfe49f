"""The command ``lightning-morse``: reports, tables and comparisons of runs, and analyses."""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_morse.atomic import written_whole
from lightning_morse.tables import FORMS, written
from lightning_morse.view.box_record import MAX_AXES
from lightning_morse.view.record import ViewRecord
from lightning_morse.view.report import write_report
from lightning_morse.view.runs import Run, read_runs
from lightning_morse.words import NO_CLAIM, kind_of_set, printable, short_of_one

_RUN = "log directory of a run, a folder of runs, or an archive of MorseAnalysis.save"
_KILOBYTES_BELOW = 1e5  # bytes; larger reports are given in megabytes
# In ``compare`` a run stands for its last analysis, and training may have gone on since.
_LOSS = "analysed_loss"
_ABOUT_LOSS = f"{_LOSS}: on the probe batches at the step of the last analysis, not at the end"
# Cells per axis unless told otherwise: most, and as many as make no more cells than these.
_CELLS_PER_AXIS, _USUAL_CELLS = 128, 2**16
_FEWEST_CELLS = 4  # per axis, as in an analysis
# An analysis takes about 1 kB for each of the cells times the corners of one (measured, 3 and 4
# axes): this is some 11 GB.
_MOST_CELLS_TIMES_CORNERS = 2**24


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
        return _complain("there is not enough memory; fewer cells (--resolution) take less")
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
    _add_format(command)
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
    _add_format(command)
    command.set_defaults(run=_compare)

    command = commands.add_parser("analyze", help="analyse a function given by its import path")
    _add_arguments_of_analyze(command)
    command.set_defaults(run=_analyze)

    command = commands.add_parser("connectivity", help="print the barriers between checkpoints")
    _add_arguments_of_weights(command)
    command.add_argument(
        "-o", "--output", type=Path, help="figure to write, or the record if it ends in .npz"
    )
    command.set_defaults(run=_connectivity)

    command = commands.add_parser("average", help="average the checkpoints that are connected")
    _add_arguments_of_weights(command)
    command.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    command.set_defaults(run=_average)
    return parser


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format", choices=list(FORMS), default="text", help="of tables: aligned text (text)"
    )


def _add_arguments_of_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "weights", nargs="+", metavar="CKPT", help="checkpoint of Lightning, or state dict"
    )
    command.add_argument(
        "--module",
        required=True,
        metavar="MODULE:FUNCTION",
        help="returns the network, or is one",
    )
    command.add_argument(
        "--data", required=True, metavar="MODULE:FUNCTION", help="returns batches, or is them"
    )
    command.add_argument(
        "--loss",
        metavar="MODULE:FUNCTION",
        help="takes network and batch, returns the mean loss (the step of a LightningModule)",
    )
    command.add_argument(
        "--tolerance", type=float, help="largest barrier that is none (1%% of the losses' range)"
    )
    command.add_argument(
        "--confidence", type=float, default=0.95, help="level of all upper bounds (0.95)"
    )
    _add_format(command)


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
    _add_format(command)


def _complain(message: str) -> int:
    # A message may quote names and texts from files.
    lines = map(printable, message.splitlines())
    print("lightning-morse: " + "\n".join(lines), file=sys.stderr)
    return 1


def _say(text: str) -> None:
    """Print a line that may hold names or texts from files."""
    print(printable(text))


class _Complaints:
    """Complains of what cannot be read or is left out, and knows whether there was anything."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self, name: str, error: str) -> None:
        self.code = _complain(f"{name}: {error}" if name else f"left out: {error}")


def _found(paths: Iterable[str], complain: _Complaints) -> list[Run]:
    return [run for path in paths for run in read_runs(path, partial(complain, ""))]


def _report(args: argparse.Namespace) -> int:
    complain = _Complaints()
    runs = _found(args.runs, complain)
    if fault := _why_not_written(args.output):
        return _complain(f"{args.output}: {fault}")
    written = write_report(runs, args.output, complain)
    small = written.size <= _KILOBYTES_BELOW
    size = f"{written.size / 1e3:.0f} kB" if small else f"{written.size / 1e6:.1f} MB"
    split = f" on {_counted(written.pages, 'page')} and an index" if written.pages else ""
    count = f"{_counted(written.records, 'record')} of {_counted(len(runs), 'run')}"
    _say(f"{args.output}: {count}{split}, {size}")
    return complain.code


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _show(args: argparse.Namespace) -> int:
    complain = _Complaints()
    for run in _found(args.runs, complain):
        _say(run.name)
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
            _say(f"Step {last.step}: {verdict}")
        rows = _without_empty_switches(rows)
        _print_table(rows, args.format)
        _show_sets(last, args.format)
    return complain.code


def _show_sets(record: ViewRecord, form: str) -> None:
    print()
    _say(f"Morse sets at step {record.step}: {record.facts['claim']}")
    _print_table(
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
    complain = _Complaints()
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
        return _complain("none of the records can be read, so there is nothing to compare")
    if args.sort not in rows[0]:
        return _complain(f"--sort must be one of {', '.join(rows[0])}, got {args.sort}")
    rows.sort(key=lambda row: _rank(row[args.sort]))
    if args.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writerow({k: printable(k) for k in rows[0]})
        writer.writerows({k: _clean(v) for k, v in row.items()} for row in rows)
    else:
        # The folders that all runs share are left out of their names.
        shared = _shared_folder([row["run"] for row in rows])
        named = [{**row, "run": os.path.relpath(row["run"], shared or ".")} for row in rows]
        _print_table(named, args.format)
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


def _print_table(rows: Sequence[dict[str, Any]], form: str) -> None:
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
    if args.output is not None and (fault := _why_not_written(args.output)):
        return _complain(f"{args.output}: {fault}")
    resolution = _usual_resolution(len(args.lower)) if args.resolution is None else args.resolution
    if fault := _why_too_many_cells(resolution, len(args.lower)):
        return _complain(fault)
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
        _say(f"written: {args.output}{shown if len(args.lower) <= MAX_AXES else ''}")
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


def _connectivity(args: argparse.Namespace) -> int:
    if args.output is not None and (fault := _why_not_written(args.output)):
        return _complain(f"{args.output}: {fault}")
    try:
        module, batches, options = _given_network(args)
    except (ImportError, AttributeError, TypeError) as error:
        return _complain(str(error))
    from lightning_morse.mode_connectivity.pipeline import connectivity

    found = connectivity(module, batches, args.weights, **options)
    for line in (found.table(args.format) + "\n\n" + found.summary()).splitlines():
        _say(line)
    if args.output is not None:
        if args.output.suffix == ".npz":
            found.save(args.output)
        else:
            with written_whole(args.output) as file:
                found.figure().savefig(file, format=args.output.suffix[1:] or "png")
        _say(f"written: {args.output}")
    return 0


def _average(args: argparse.Namespace) -> int:
    if fault := _why_not_written(args.output):
        return _complain(f"{args.output}: {fault}")
    try:
        module, batches, options = _given_network(args)
    except (ImportError, AttributeError, TypeError) as error:
        return _complain(str(error))
    from lightning_morse.mode_connectivity.averaging import average

    found = average(module, batches, args.weights, **options)
    record = found.record
    for line in record.summary().splitlines():
        _say(line)
    print()
    rows = [
        {"checkpoint": record.names[i], "loss": float(record.losses[i]), "mean is lower by": gain}
        for i, gain in found.gains.items()
    ]
    mean = {"checkpoint": "mean", "loss": found.loss, "mean is lower by": None}
    _print_table([*rows, mean], args.format)
    for i, why in found.left_out.items():
        _say(f"left out: {record.names[i]}: {why}")
    if max(found.gains.values()) < 0:
        _say("note: the loss at the mean is above that of each of them")
    found.save(args.output)
    _say(f"{args.output}: mean of {_counted(len(found.members), 'checkpoint')}")
    return 0


def _given_network(args: argparse.Namespace) -> tuple[Any, list[Any], dict[str, Any]]:
    """The network, the batches, and the options of a command on checkpoints."""
    import torch

    module, data = _attribute("--module", args.module), _attribute("--data", args.data)
    module = module if isinstance(module, torch.nn.Module) else module()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"--module {args.module}: must return a network, got {type(module)}")
    loss = None if args.loss is None else _attribute("--loss", args.loss)
    options = {"loss_fn": loss, "tolerance": args.tolerance, "confidence": args.confidence}
    return module, list(data() if callable(data) else data), options


def _attribute(option: str, name: str) -> Any:
    try:
        return _imported(name, callable_only=False)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{option} {name}: {error}") from error


def _why_not_written(path: Path) -> str:
    """Why a file cannot be written, as far as that can be told before; empty if it can."""
    if path.is_dir():
        return "it is a folder; --output must be a file"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return "" if os.access(path.parent, os.W_OK) else f"{path.parent} cannot be written to"


def _imported(name: str, callable_only: bool = True) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ImportError("expected MODULE:FUNCTION, such as mypackage.losses:himmelblau")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as with python -m
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if callable_only and not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, not a function")
    return found


if __name__ == "__main__":
    sys.exit(main())

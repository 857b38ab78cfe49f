"""Commands about checkpoints: barriers between them, and their average."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lightning_morse.cli.objects import imported
from lightning_morse.cli.output import add_format, counted, fail, print_table, say, why_not_written
from lightning_morse.files.atomic import written_whole


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of a parser."""
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
    add_format(command)


def _connectivity(args: argparse.Namespace) -> int:
    if args.output is not None and (fault := why_not_written(args.output)):
        return fail(f"{args.output}: {fault}")
    try:
        module, batches, options = _given_network(args)
    except (ImportError, AttributeError, TypeError) as error:
        return fail(str(error))
    from lightning_morse.mode_connectivity.pipeline import connectivity

    found = connectivity(module, batches, args.weights, **options)
    for line in (found.table(args.format) + "\n\n" + found.summary()).splitlines():
        say(line)
    if args.output is not None:
        if args.output.suffix == ".npz":
            found.save(args.output)
        else:
            with written_whole(args.output) as file:
                found.figure().savefig(file, format=args.output.suffix[1:] or "png")
        say(f"written: {args.output}")
    return 0


def _average(args: argparse.Namespace) -> int:
    if fault := why_not_written(args.output):
        return fail(f"{args.output}: {fault}")
    try:
        module, batches, options = _given_network(args)
    except (ImportError, AttributeError, TypeError) as error:
        return fail(str(error))
    from lightning_morse.mode_connectivity.averaging import average

    found = average(module, batches, args.weights, **options)
    record = found.record
    for line in record.summary().splitlines():
        say(line)
    print()
    rows = [
        {"checkpoint": record.names[i], "loss": float(record.losses[i]), "mean is lower by": gain}
        for i, gain in found.gains.items()
    ]
    mean = {"checkpoint": "mean", "loss": found.loss, "mean is lower by": None}
    print_table([*rows, mean], args.format)
    for i, why in found.left_out.items():
        say(f"left out: {record.names[i]}: {why}")
    if max(found.gains.values()) < 0:
        say("note: the loss at the mean is above that of each of them")
    found.save(args.output)
    say(f"{args.output}: mean of {counted(len(found.members), 'checkpoint')}")
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
        return imported(name, callable_only=False)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{option} {name}: {error}") from error

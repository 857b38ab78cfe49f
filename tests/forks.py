"""Runs a script several times, each in a process of its own, and imports only once.

The imports of a run take longer than a small run. So one process imports what the script does, as
its first lines, and is forked before the rest: once for each list of arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a process has ended.

    Attributes:
        code: Its return code, negative if a signal ended it.
        said: What it has printed.
    """

    code: int
    said: str


def run_forked(
    imports: str, script: str, runs: Sequence[Sequence[str]], folder: Path, time_limit: float = 180
) -> list[Ended]:
    """Run a script with one list of arguments after the other.

    Args:
        imports: Statements that are the same for all.
        script: The rest, which finds its arguments in ``sys.argv[1:]``.
        runs: Their arguments.
        folder: Where what they print is kept.
        time_limit: Seconds for all of them.
    """
    order = [sys.executable, "-m", __name__, imports, script, json.dumps(list(map(list, runs)))]
    done = subprocess.run(
        [*order, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=time_limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    return [Ended(code, _said(folder, number).read_text()) for number, code in enumerate(codes)]


def say_into(path: Path) -> None:
    """From now on write to a file what this process prints."""
    with path.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)


def _said(folder: Path, number: int) -> Path:
    return folder / f"said-{number}.txt"


def _run(names: dict[str, object], script: str, arguments: list[str], said: Path) -> NoReturn:
    """Run the script in this process, and end it at once: tidying up takes longer than the run."""
    say_into(said)
    sys.argv = ["-c", *arguments]
    code = 1
    try:
        exec(script, names)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(imports: str, script: str, runs: str, folder: str) -> None:
    """Import, fork, and print the return codes."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(imports, names)
    codes = []
    for number, arguments in enumerate(json.loads(runs)):
        child = os.fork()
        if not child:
            _run(names, script, arguments, _said(Path(folder), number))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])

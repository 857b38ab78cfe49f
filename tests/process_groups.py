"""Starts a script of the tests as a group of processes that know each other, and ends them.

As a program, ``python -m tests.process_groups SCRIPT FOLDER SIZE ARGUMENT...``, it is the group: it
imports once what all processes need, most of what they would take otherwise, and forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.forks import ROOT, say_into


def reports_of(
    script: str, folder: Path, size: int, time_limit: float, *args: str
) -> dict[str, Any]:
    """What the processes of a group have written into a folder.

    Args:
        script: The name of a module, such as ``"tests.two_processes"``.
        folder: Where reports go, ``<name>-<rank>.json``; the last argument of the script.
        size: How many processes.
        time_limit: Seconds that each may take.
        args: Further arguments, before the folder.

    Returns:
        The reports by name, a list with one of each process; and under ``"said"`` what each has
        printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    group = subprocess.Popen(
        [sys.executable, "-m", __name__, script, str(folder), str(size), *args],
        cwd=ROOT,
        env=environment,
        start_new_session=True,  # to end all of them
    )
    try:
        code = group.wait(time_limit)
        failed = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.txt")))
        assert code == 0, failed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
        group.wait()
    names = {path.stem.rsplit("-", 1)[0] for path in folder.glob("*-0.json")}
    found: dict[str, Any] = {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(size)]
        for name in names
    }
    found["said"] = [(folder / f"{rank}.txt").read_text() for rank in range(size)]
    return found


def _become(script: str, folder: Path, rank: int, args: list[str]) -> None:
    """Run a script in this process, as that of a rank."""
    say_into(folder / f"{rank}.txt")
    os.environ["LOCAL_RANK"] = str(rank)
    sys.argv = [script, *args, str(folder)]
    runpy.run_module(script, run_name="__main__", alter_sys=True)


def main(script: str, folder: str, size: str, *args: str) -> int:
    """Fork the processes of a group; return 0 if all end well."""
    for name in ("pytest", "pytorch_lightning", "torch.distributed.fsdp", "lightning_morse"):
        importlib.import_module(name)
    importlib.import_module("tests.callback_models")
    children = []
    for rank in range(int(size)):
        child = os.fork()
        if not child:
            _become(script, Path(folder), rank, list(args))
            return 0
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

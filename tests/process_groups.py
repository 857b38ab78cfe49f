"""Starts a script of the tests as a group of processes that know each other, and ends them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


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
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    group = [
        subprocess.Popen(
            [sys.executable, "-m", script, *args, str(folder)],
            cwd=ROOT,
            env={**shared, "LOCAL_RANK": str(rank)},
            stdout=(folder / f"{rank}.txt").open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(size)
    ]
    try:
        for rank, process in enumerate(group):
            code = process.wait(time_limit)
            assert code == 0, (folder / f"{rank}.txt").read_text()[-3000:]
    finally:
        for process in group:
            process.kill()
    names = {path.stem.rsplit("-", 1)[0] for path in folder.glob("*-0.json")}
    found: dict[str, Any] = {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(size)]
        for name in names
    }
    found["said"] = [(folder / f"{rank}.txt").read_text() for rank in range(size)]
    return found

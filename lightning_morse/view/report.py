"""A report of runs: one HTML file with everything in it, nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from lightning_morse.view import asset
from lightning_morse.view.record import summary
from lightning_morse.view.runs import Reading, Run

_BOOT = """
const data = JSON.parse(document.getElementById("data").textContent);
mount(document.getElementById("view"), {
  runs: async () => data.runs,
  record: async (run, step) => data.records[data.runs.findIndex((r) => r.name === run)][step],
});
"""


def report(runs: Sequence[Run]) -> str:
    """Write runs as one HTML page.

    The page's own policy forbids every connection and every script but the one it holds. Names and
    labels of the runs are data for that script, which only makes text of them.

    Args:
        runs: The runs, in the order they are listed.

    Raises:
        ValueError: If there is no run.
    """
    if not runs:
        raise ValueError("a report needs at least one run, got none")
    listed = [{"name": run.name, "steps": [_summary(r) for r in _by_step(run)]} for run in runs]
    records = [
        "{" + ",".join(f'"{r.step}":{r.record.text}' for r in _by_step(run) if r.record) + "}"
        for run in runs
    ]
    data = f'{{"runs":{json.dumps(listed)},"records":[{",".join(records)}]}}'
    # Inside <script> only "<" can end the element or open a comment.
    data = data.replace("<", "\\u003c")
    script, style = asset("view.js") + _BOOT, asset("view.css")
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Morse graphs of the loss</title>
<style>{style}</style>
</head>
<body>
<main id="view"><p>This report needs a browser with JavaScript.</p></main>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _by_step(run: Run) -> list[Reading]:
    """One reading a step: of several the last that can be read."""
    kept: dict[int, Reading] = {}
    for reading in run.readings:
        if reading.record or reading.step not in kept:
            kept[reading.step] = reading
    return [kept[step] for step in sorted(kept)]


def _summary(reading: Reading) -> dict[str, object]:
    if reading.record:
        return summary(reading.record)
    return {"step": reading.step, "error": reading.error}


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"

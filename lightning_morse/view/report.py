"""A report of runs: one HTML file that holds everything it needs and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from lightning_morse.view import asset
from lightning_morse.view.bundle import bundle
from lightning_morse.view.record import summary
from lightning_morse.view.runs import Reading, Run


def report(runs: Sequence[Run]) -> str:
    """Return an HTML page that shows runs.

    The page's content security policy forbids every connection and every script but its own. Names
    and labels of the runs are data for that script, which turns them into text nodes only.

    Args:
        runs: The runs, in the order in which the page lists them.

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
    # Within <script> only "<" can end the element or open a comment.
    data = data.replace("<", "\\u003c")
    script, style = bundle("page.js", asset), asset("view.css")
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
    """One reading per step: the last readable one, or else the first."""
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

"""A report of runs: HTML that holds everything it needs and loads nothing.

It is written piece by piece, so that it takes no more memory than one record. What would be too
large for a browser is split: one page per run, or per stretch of a long run, and an index.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from lightning_morse.files.atomic import refuse_special, written_whole
from lightning_morse.files.regular import open_regular
from lightning_morse.view import asset
from lightning_morse.view.bundle import bundle
from lightning_morse.view.course import course_of
from lightning_morse.view.record import summary
from lightning_morse.view.runs import Reading, Run, by_step

# Larger pages open slowly or not at all; about 1,500 records of 128 x 128 cells.
MAX_PAGE_BYTES = 32_000_000
_PAGE = re.compile(r"[0-9]{4}-[0-9a-f]+\.html")
_TITLE = "Morse graphs of the loss"
_NOTHING = "none of the records can be read, so no report is written"

# Takes the name of a run and why a record of it cannot be read.
Failed = Callable[[str, str], None]


@dataclass(frozen=True)
class Written:
    """What has been written.

    Attributes:
        records: Number of records that are shown.
        pages: Number of pages besides the index; 0 if there is no index.
        size: Bytes of all pages.
    """

    records: int
    pages: int
    size: int


def report(runs: Sequence[Run], failed: Failed | None = None) -> str:
    """Return an HTML page that shows runs.

    The page's content security policy forbids every connection and every script but its own. Names
    and labels of the runs are data for that script, which turns them into text nodes only. Each
    record is parsed when it is shown, so that one damaged record spoils no other.

    Args:
        runs: The runs, in the order in which the page lists them.
        failed: Takes the name of the run and the reason for each record that cannot be read.

    Raises:
        ValueError: If there is no run.
    """
    return "".join(_pieces(runs, failed or _ignore))


def write_report(
    runs: Sequence[Run],
    path: str | os.PathLike[str],
    failed: Failed | None = None,
    *,
    max_bytes: int = MAX_PAGE_BYTES,
) -> Written:
    """Write a report; a file that is there already stays as it is until the new one is whole.

    Args:
        runs: As in :func:`report`.
        path: The page. A report larger than ``max_bytes`` becomes pages in a folder beside it,
            ``<name>.pages``, and ``path`` their index; pages of the report before go with it.
        failed: As in :func:`report`.
        max_bytes: The size from which on a page is split, by the sizes of the files of its records.

    Raises:
        ValueError: If there is no run, or none of the records can be read; nothing is written then.
        OSError: If it cannot be written, or ``path`` is no regular file.
    """
    refuse_special(path)
    target, failed = Path(path), failed or _ignore
    old = _pages_of(target)
    if sum(map(_size_of, runs)) <= max_bytes:
        written = _write_page(target, _pieces(runs, failed), least=1)
    else:
        written = _write_pages(runs, target, failed, max_bytes)
    for page in old:  # nothing leads there any more
        page.unlink(missing_ok=True)
    return written


def _write_pages(runs: Sequence[Run], target: Path, failed: Failed, max_bytes: int) -> Written:
    """Write a page per run or part of a run, and the index last, which makes them count."""
    folder = target.with_name(f"{target.stem}.pages")
    folder.mkdir(exist_ok=True)
    stamp, rows, records, size = f"{time.time_ns():x}", [], 0, 0
    listed: list[dict[str, Any]] = []
    parts = [part for run in runs for part in _parts(run, max_bytes)]
    for number, part in enumerate(parts):
        name = f"{number:04d}-{stamp}.html"
        page = _write_page(folder / name, _pieces([part], failed, listed))
        records, size = records + page.records, size + page.size
        rows.append(_row(f"{folder.name}/{name}", part, page.records))
        listed[-1]["href"] = quote(os.fsencode(f"{folder.name}/{name}"))
    if not records:
        for empty in folder.glob(f"*-{stamp}.html"):
            empty.unlink()
        raise ValueError(_NOTHING)
    content = _index(rows, listed).encode()
    with written_whole(target) as file:
        file.write(content)
    return Written(records, len(parts), size + len(content))


def _parts(run: Run, max_bytes: int) -> Iterator[Run]:
    """A run, cut into stretches of steps that fit on a page."""
    kept: list[Reading] = []
    size = 0
    for reading in run.readings:
        more = _bytes(reading)
        if kept and size + more > max_bytes:
            yield replace(run, readings=tuple(kept))
            kept, size = [], 0
        kept.append(reading)
        size += more
    yield replace(run, readings=tuple(kept))


def _write_page(target: Path, pieces: Iterable[str], least: int = 0) -> Written:
    """Write a page, unless it would show fewer than the least number of records."""
    size = records = 0
    with written_whole(target) as file:
        for piece in pieces:
            records += piece.startswith(_RECORD)
            size += file.write(piece.encode())
        if records < least:  # what is there already is worth more
            raise ValueError(_NOTHING)
    return Written(records, 0, size)


def _pages_of(index: Path) -> list[Path]:
    """The pages that an index of ours leads to."""
    folder = index.with_name(f"{index.stem}.pages")
    try:
        with open_regular(index) as file:
            text = file.read(MAX_PAGE_BYTES).decode(errors="replace")
    except OSError:
        return []
    links = re.findall(r'href="([^"]*)"', text) if _INDEX in text else []
    names = [link.rpartition("/")[2] for link in links]
    return [folder / name for name in names if _PAGE.fullmatch(name)]


def _size_of(run: Run) -> int:
    return sum(map(_bytes, run.readings))


def _bytes(reading: Reading) -> int:
    try:
        return reading.source.stat().st_size
    except OSError:  # gone; that is said where it is read
        return 0


def _ignore(name: str, error: str) -> None:
    pass


# ------------------------------------------------------------------------------- a page

_RECORD = '<script type="application/json" id="record-'
_IN_MEMORY = 2**22  # bytes of records; what goes beyond waits in a file


def _pieces(
    runs: Sequence[Run], failed: Failed, courses: list[dict[str, Any]] | None = None
) -> Iterator[str]:
    """A page, one record at a time; name and course of each run are added to a list.

    The list of records, the one that is shown first, and the script come before all other records:
    the page is seen while those are still being read.
    """
    if not runs:
        raise ValueError("a report needs at least one run, got none")
    script, style = _script("page.js"), asset("view.css")
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    yield _head(policy, style)
    yield '<main id="view"><p>This report needs a browser with JavaScript.</p></main>\n'
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as waiting:
        listed, spans = _listed(runs, failed, waiting)
        if courses is not None:
            courses += [{k: v for k, v in run.items() if k != "steps"} for run in listed]
        yield _data({"runs": listed})
        first = next((run["steps"][-1].get("record") for run in listed if run["steps"]), None)
        if first is not None:
            yield _record(first, spans, waiting)
        yield f"<script>{script}</script>\n"
        for number in range(len(spans)):
            if number != first:
                yield _record(number, spans, waiting)
    yield "</body>\n</html>\n"


def _listed(
    runs: Sequence[Run], failed: Failed, waiting: IO[bytes]
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """What is listed of each run, and where each of the records waits: start and length."""
    listed: list[dict[str, Any]] = []
    spans: list[tuple[int, int]] = []
    for run in runs:
        steps: dict[int, dict[str, Any]] = {}
        for step, readings in by_step(run):
            entry, text = _entry(step, readings, partial(failed, run.name))
            if entry["step"] in steps:
                continue
            steps[entry["step"]] = entry
            if text is not None:
                entry["record"] = len(spans)
                spans.append((waiting.tell(), waiting.write(_in_script(text).encode())))
        found = [steps[step] for step in sorted(steps)]
        given = {"name": run.name, "hparams": {k: _plain(v) for k, v in run.hparams.items()}}
        listed.append({**given, "course": course_of(found), "steps": found})
    return listed, spans


def _plain(value: Any) -> Any:
    """A value as JSON in a browser has it: numbers that are not finite become text."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _record(number: int, spans: Sequence[tuple[int, int]], waiting: IO[bytes]) -> str:
    """The element of a record."""
    start, length = spans[number]
    waiting.seek(start)
    return f'{_RECORD}{number}">{waiting.read(length).decode()}</script>\n'


def _entry(
    step: int, readings: Sequence[Reading], failed: Callable[[str], None]
) -> tuple[dict[str, Any], str | None]:
    """What is listed of a step, and the record; of several the first that can be read."""
    why = ""
    for reading in readings:
        record, error = reading.tried()
        if record is not None:
            return summary(record), record.text
        failed(error)
        why = error
    return {"step": step, "error": why}, None


def _script(entry: str) -> str:
    """A script that keeps its names to itself, from a module and all that it imports."""
    return f'"use strict";\n{{\n{bundle(entry, asset)}}}'


def _data(content: Any) -> str:
    data = _in_script(json.dumps(content, allow_nan=False))
    return f'<script type="application/json" id="data">{data}</script>\n'


def _in_script(data: str) -> str:
    # Within <script> only "<" can end the element or open a comment. Names that are not UTF-8 hold
    # halves of characters, which a page cannot.
    return data.replace("<", "\\u003c").encode(errors="replace").decode()


def _head(policy: str, style: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_TITLE}</title>
<style>{style}</style>
</head>
<body>
"""


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


# ------------------------------------------------------------------------------- the index

_INDEX = '<main id="index">'
_ABOUT = "All records on one page would be too large for a browser; each run has its own."


def _index(rows: Sequence[str], listed: Sequence[Mapping[str, Any]]) -> str:
    """The index: a table that a script can sort, and one without, for a browser that has none."""
    script, style = _script("index.js"), asset("view.css")
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    table = "\n".join(rows)
    return f"""{_head(policy, style)}{_INDEX}
<h1>{_TITLE}</h1>
<p>{_ABOUT}</p>
<table>
<tr><th>run</th><th>records</th><th>steps</th></tr>
{table}
</table>
</main>
{_data({"runs": listed, "about": _ABOUT})}<script>{script}</script>
</body>
</html>
"""


def _row(link: str, run: Run, records: int) -> str:
    name = html.escape(run.name.encode(errors="replace").decode())
    steps = f"{run.readings[0].step} to {run.readings[-1].step}"
    to = quote(os.fsencode(link))
    return f'<tr><td><a href="{to}">{name}</a></td><td>{records}</td><td>{steps}</td></tr>'

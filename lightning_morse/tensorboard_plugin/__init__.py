"""The tab "Morse" of TensorBoard: the records that ``MorseMonitor`` adds to the event files.

Loaded by TensorBoard itself, in a process that may have neither torch nor Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lightning_morse.view import asset
from lightning_morse.view.record import PLUGIN, RECORD_TAG, decode, record_tag, summary

PLUGIN_NAME = PLUGIN
TAG = record_tag()
MAX_RECORDS = 1000  # of a run; a record of 128 x 128 cells has about 20 kB


class MorseLoader(base_plugin.TBLoader):
    """Loads the plugin, and asks TensorBoard to keep all records of a run, not a sample of 10."""

    def fix_flags(self, flags: Any) -> None:
        """Raise the number of records kept, unless ``--samples_per_plugin`` says otherwise."""
        if isinstance(getattr(flags, "samples_per_plugin", None), dict):
            flags.samples_per_plugin.setdefault(PLUGIN_NAME, MAX_RECORDS)

    def load(self, context: base_plugin.TBContext) -> MorsePlugin:
        """Make the plugin."""
        return MorsePlugin(context)


class MorsePlugin(base_plugin.TBPlugin):
    """Serves the front end and the records.

    Routes, below ``/data/plugin/morse``: ``/static/*`` the front end; ``/runs`` all runs with a
    summary of each step; ``/record?run=&tag=&step=`` one record, of the monitor ``morse`` without
    ``tag``. A record that cannot be read is answered with ``{"error": why}``.

    Each monitor of a run has a tag of its own and is listed by itself.

    Args:
        context: What TensorBoard gives every plugin.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._data = context.data_provider

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Return the routes."""
        routes = {"/static/*": self._static, "/runs": self._runs, "/record": self._record}
        return {path: wrappers.Request.application(answer) for path, answer in routes.items()}

    def is_active(self) -> bool:
        """Return False: whether there are records is then asked of the data."""
        return False

    def data_plugin_names(self) -> tuple[str, ...]:
        """Name under which the records are written; the tab is active where there are any."""
        return (PLUGIN_NAME,)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the name of the tab and its entry point."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name="Morse", disable_reload=False
        )

    def _static(self, request: wrappers.Request) -> wrappers.Response:
        name = request.path.rpartition("/static/")[2]
        # A list of what there is, so no path leads anywhere else.
        if name == "index.js":
            text = files(__name__).joinpath(name).read_text(encoding="utf-8")
        elif name in ("view.js", "view.css"):
            text = asset(name)
        else:
            return _answer(request, {"error": "there is no such file"}, 404)
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return http_util.Respond(request, text, kind)

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        read = self._read(request, None, None)
        found = [
            {
                "name": run if tag == TAG else f"{run} ({tag.removesuffix(f'/{RECORD_TAG}')})",
                "run": run,
                "tag": tag,
                "steps": [_summary(step, text) for step, text in read[run, tag].items()],
            }
            for run, tag in sorted(read)
        ]
        return _answer(request, found)

    def _record(self, request: wrappers.Request) -> wrappers.Response:
        run, step = request.args.get("run"), request.args.get("step", "")
        if run is None or not step.lstrip("-").isdecimal():
            error = f"expected ?run=<name>&step=<number>, got run {run!r} and step {step!r}"
            return _answer(request, {"error": error}, 400)
        tag = request.args.get("tag", TAG)
        text = self._read(request, run, tag).get((run, tag), {}).get(int(step))
        if text is None:
            error = f"there is no record {tag!r} of run {run!r} at step {step}"
            return _answer(request, {"error": error}, 404)
        try:
            record = decode(text)
        except ValueError as error:
            return _answer(request, {"error": str(error)})
        return http_util.Respond(request, record.text, "application/json")

    def _read(
        self, request: wrappers.Request, run: str | None, tag: str | None
    ) -> dict[tuple[str, str], dict[int, bytes]]:
        """Texts of records by run and tag, then by step; of several at one step the last."""
        read = self._data.read_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=PLUGIN_NAME,
            downsample=MAX_RECORDS,
            run_tag_filter=RunTagFilter(
                runs=None if run is None else [run], tags=None if tag is None else [tag]
            ),
        )
        return {
            (name, which): {
                int(datum.step): _text(datum.numpy) for datum in sorted(data, key=_step)
            }
            for name, tags in read.items()
            for which, data in tags.items()
        }


def _step(datum: Any) -> int:
    return int(datum.step)


def _text(tensor: Any) -> bytes:
    value = tensor.item() if tensor.size == 1 else b""
    return value if isinstance(value, bytes) else str(value).encode()


def _summary(step: int, text: bytes) -> dict[str, Any]:
    try:
        # The step of the event is what a record is asked for by.
        return {**summary(decode(text)), "step": step}
    except ValueError as error:
        return {"step": step, "error": str(error)}


def _answer(request: wrappers.Request, content: Any, code: int = 200) -> wrappers.Response:
    return http_util.Respond(request, json.dumps(content), "application/json", code=code)

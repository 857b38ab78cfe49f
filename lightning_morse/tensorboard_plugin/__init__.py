"""The tab "Morse" of TensorBoard: the records that ``MorseMonitor`` adds to the event files.

TensorBoard itself loads this package, in a process that may have neither torch nor Lightning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lightning_morse.tensorboard_plugin.listing import Event, Listing, Stamp
from lightning_morse.view import asset
from lightning_morse.view.bundle import bundle
from lightning_morse.view.course import course_of
from lightning_morse.view.record import PLUGIN, RECORD_TAG, decode, record_tag

# Records kept of each run; one of 128 x 128 cells has about 20 kB.
MAX_RECORDS = 1000
_STEP = re.compile("-?[0-9]{1,18}")


class MorseLoader(base_plugin.TBLoader):
    """Loads the plugin, and asks TensorBoard to keep all records of a run, not a sample of 10."""

    def fix_flags(self, flags: Any) -> None:
        """Raise the number of records kept, unless ``--samples_per_plugin`` says otherwise."""
        if isinstance(getattr(flags, "samples_per_plugin", None), dict):
            flags.samples_per_plugin.setdefault(PLUGIN, MAX_RECORDS)

    def load(self, context: base_plugin.TBContext) -> MorsePlugin:
        """Return the plugin."""
        return MorsePlugin(context)


class MorsePlugin(base_plugin.TBPlugin):
    """Serves the front end and the records.

    Routes, below ``/data/plugin/morse``: ``/static/tab.js`` and ``/static/view.css`` for the front
    end; ``/courses`` for all runs, each in few numbers; ``/runs`` for all runs with a summary
    of each step, ``/runs?run=&tag=`` for one; ``/record?run=&tag=&step=`` for one record, of the
    monitor ``morse`` if ``tag`` is left out. The answer for a record that cannot be read is
    ``{"error": why}``.

    Each monitor of a run has its own tag and is listed separately.

    Args:
        context: What TensorBoard gives every plugin.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._data = context.data_provider
        self._listing = Listing()

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Return the routes."""
        routes = {
            "/static/*": self._static,
            "/courses": self._courses,
            "/runs": self._runs,
            "/record": self._record,
        }
        return {path: wrappers.Request.application(answer) for path, answer in routes.items()}

    def is_active(self) -> bool:
        """Return False: TensorBoard then asks the data whether there are records."""
        return False

    def data_plugin_names(self) -> tuple[str, ...]:
        """Return the name that marks the records; the tab is active where there are any."""
        return (PLUGIN,)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the name of the tab and its entry point."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/tab.js", tab_name="Morse", disable_reload=False
        )

    def _static(self, request: wrappers.Request) -> wrappers.Response:
        name = request.path.partition("/static/")[2]
        # Only these are served, so no path leads anywhere else.
        if name == "tab.js":
            return _respond(request, _script(), "text/javascript")
        if name == "view.css":
            return _respond(request, asset(name), "text/css")
        return _answer(request, {"error": "there is no such file"}, 404)

    def _courses(self, request: wrappers.Request) -> wrappers.Response:
        return self._answer_of_runs(request, None, lambda steps: {"course": course_of(steps)})

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        run = request.args.get("run")
        only = None if run is None else (run, request.args.get("tag", record_tag(PLUGIN)))
        return self._answer_of_runs(request, only, lambda steps: {"steps": steps})

    def _answer_of_runs(
        self,
        request: wrappers.Request,
        only: tuple[str, str] | None,
        about: Callable[[list[dict[str, Any]]], dict[str, Any]],
    ) -> wrappers.Response:
        """What is said about the steps of each run, or of one of them."""
        experiment = plugin_util.experiment_id(request.environ)
        context = plugin_util.context(request.environ)
        try:
            series = self._data.list_tensors(context, experiment_id=experiment, plugin_name=PLUGIN)
        except errors.PublicError as error:
            return _answer(request, {"error": str(error)}, error.http_code)
        stamps = {
            (run, tag): Stamp(int(one.max_step), float(one.max_wall_time))
            for run, tags in series.items()
            for tag, one in tags.items()
        }
        read = partial(self._read, context, experiment)
        if only is None:
            listed = self._listing.of(experiment, stamps, read)
        elif only in stamps:
            listed = {only: self._listing.one(experiment, only, stamps[only], read)}
        else:
            return _answer(request, {"error": f"there is no run {only[0]!r:.80}"}, 404)
        found = [
            {
                "name": run if tag == record_tag(PLUGIN) else f"{run} ({_monitor(tag)})",
                "run": run,
                "tag": tag,
                **about(listed[run, tag]),
            }
            for run, tag in sorted(listed)
        ]
        return _answer(request, found)

    def _record(self, request: wrappers.Request) -> wrappers.Response:
        run, step = request.args.get("run"), request.args.get("step", "")
        if run is None or not _STEP.fullmatch(step):
            error = f"expected ?run=<name>&step=<number>, got run {run!r:.80}, step {step!r:.80}"
            return _answer(request, {"error": error}, 400)
        tag = request.args.get("tag", record_tag(PLUGIN))
        context = plugin_util.context(request.environ)
        experiment = plugin_util.experiment_id(request.environ)
        try:
            events = self._read(context, experiment, (run, tag))
            texts = [event.text for event in events if event.step == int(step)]
            if texts:
                return _respond(request, decode(texts[0]).text, "application/json")
        except errors.PublicError as error:
            return _answer(request, {"error": str(error)}, error.http_code)
        except Exception as error:  # of the record, or whatever TensorBoard meets in the run
            return _answer(request, {"error": str(error)})
        said = f"there is no record {tag!r:.80} of run {run!r:.80} at step {step}"
        return _answer(request, {"error": said}, 404)

    def _read(self, context: Any, experiment: str, key: tuple[str, str]) -> list[Event]:
        """The records of a series, in order of their steps; the last of several at one step."""
        run, tag = key
        read = self._data.read_tensors(
            context,
            experiment_id=experiment,
            plugin_name=PLUGIN,
            downsample=MAX_RECORDS,
            run_tag_filter=RunTagFilter(runs=[run], tags=[tag]),
        )
        events = map(_event, _ordered(read.get(run, {}).get(tag, [])))
        return list({event.step: event for event in events}.values())


@cache
def _script() -> str:
    """The front end as one module: fifty, each asked for by the one before, take a second."""
    return f"{bundle('tab.js', asset)}export const {{ render }} = modules['tab.js'];\n"


def _ordered(data: Any) -> list[Any]:
    return sorted(data, key=lambda datum: int(datum.step))


def _event(datum: Any) -> Event:
    value = datum.numpy.item() if datum.numpy.size == 1 else b""
    text = value if isinstance(value, bytes) else str(value).encode(errors="replace")
    return Event(int(datum.step), float(datum.wall_time), text)


def _monitor(tag: str) -> str:
    """Name of the monitor that a tag belongs to."""
    return tag.removesuffix(f"/{RECORD_TAG}")


def _answer(request: wrappers.Request, content: Any, code: int = 200) -> wrappers.Response:
    return _respond(request, json.dumps(content), "application/json", code)


def _respond(request: wrappers.Request, text: str, kind: str, code: int = 200) -> wrappers.Response:
    response: wrappers.Response = http_util.Respond(request, text, kind, code=code)
    return response

"""Requests of any kind, over data that change meanwhile: never a 500, and no mixture of states."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard import errors
from werkzeug.test import Client
from werkzeug.wrappers import Response

from lightning_morse.tensorboard_plugin import MorsePlugin
from lightning_morse.view.encoding import encode
from tests.plotting import test_basins_and_morse_graph as drawn

TAG = "morse/record"
TEXTS = {g: encode(drawn.line(), step=0, epoch=g).encode() for g in range(40)}


class Data:
    """Stands in for TensorBoard's data: runs whose records all carry the number of a state."""

    def __init__(self, steps=5):
        self.steps = steps
        self.states = {}
        self.broken = {}

    def put(self, run, state):
        """Write a run anew; all of its records change at once."""
        self.states = {**self.states, run: state}

    def remove(self, run):
        self.states = {k: v for k, v in self.states.items() if k != run}

    def list_tensors(self, context, *, experiment_id, plugin_name):
        times = {run: float(state) for run, state in self.states.items()}
        times |= dict.fromkeys(self.broken, 0.0)
        series = {
            r: SimpleNamespace(max_step=self.steps, max_wall_time=t) for r, t in times.items()
        }
        return {run: {TAG: one} for run, one in series.items()}

    def read_tensors(self, context, *, experiment_id, plugin_name, downsample, run_tag_filter):
        (run,), (tag,) = run_tag_filter.runs, run_tag_filter.tags
        if run in self.broken:
            raise self.broken[run]
        state = self.states.get(run)
        if state is None or tag != TAG:
            return {}
        text = np.array(TEXTS[state], dtype=object)
        return {
            run: {
                tag: [
                    SimpleNamespace(step=k, wall_time=float(state), numpy=text)
                    for k in range(self.steps)
                ]
            }
        }


@pytest.fixture
def data():
    return Data()


@pytest.fixture
def get(data):
    apps = MorsePlugin(SimpleNamespace(data_provider=data)).get_plugin_apps()

    def ask(path, **query):
        client = Client(apps[path], Response)
        return client.get(path, query_string=query)

    return ask


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"run": "a", "step": "--5"}, 400),
        ({"run": "a", "step": "9" * 5000}, 400),
        ({"run": "a", "step": "1e3"}, 400),
        ({"run": "a", "step": "\ud800".encode("utf-8", "surrogatepass")}, 400),
        ({"run": "a" * 10**5, "step": "9" * 18}, 404),
        ({"run": "a", "step": 3, "tag": "\0"}, 404),
        ({"run": "a", "step": -(10**17)}, 404),
        ({"run": "a", "step": 3}, 200),
    ],
)
def test_nonsense_is_answered_with_what_was_expected(data, get, query, code):
    data.put("a", 1)
    answer = get("/record", **query)
    assert answer.status_code == code
    assert len(answer.data) < 5000
    assert ("error" in json.loads(answer.data)) == (code != 200)


@pytest.mark.parametrize(
    "error", [TypeError("no tensor"), ValueError("x"), RuntimeError("y"), MemoryError("z")]
)
def test_one_broken_tensor_is_a_matter_of_its_run(data, get, error):
    data.put("a", 1)
    data.broken["b"] = error
    answer = get("/runs")
    assert answer.status_code == 200
    a, b = json.loads(answer.data)
    assert [s["step"] for s in a["steps"]] == list(range(5))
    assert str(error) in b["steps"][0]["error"]
    answer = get("/record", run="b", step=3)
    assert answer.status_code == 200
    assert json.loads(answer.data)["error"] == str(error)


@pytest.mark.parametrize(("error", "code"), [(errors.NotFoundError, 404)])
def test_what_tensorboard_refuses_keeps_its_code(data, get, error, code):
    data.broken["b"] = error("no such run")
    assert get("/record", run="b", step=3).status_code == code

    def refuse(*_, **__):
        raise error("no such experiment")

    data.list_tensors = refuse
    assert get("/runs").status_code == code


def test_two_hundred_requests_while_runs_come_change_and_go(data, get):
    """Each run is listed in one state, one that it had; a record is that of a state it had."""
    rng = random.Random(0)
    for k in range(6):
        data.put(f"r{k}", 0)
    stop = threading.Event()

    def change():
        state = 0
        while not stop.is_set():
            state = min(state + 1, len(TEXTS) - 1)
            run = f"r{rng.randrange(8)}"
            if rng.random() < 0.3:
                data.remove(run)
            else:
                data.put(run, state)
            stop.wait(0.002)

    def ask(k):
        if k % 2:
            return get("/record", run=f"r{k % 8}", step=k % 5)
        return get("/runs")

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(ask, range(200)))
    finally:
        stop.set()
        changer.join()
    assert {answer.status_code for answer in answers} <= {200, 404}
    listed = [json.loads(a.data) for a in answers[::2]]
    assert all(a.status_code == 200 for a in answers[::2])
    for runs in listed:
        for run in runs:
            epochs = {step["epoch"] for step in run["steps"]}
            assert len(epochs) <= 1
            assert [s["step"] for s in run["steps"]] in ([], list(range(5)))
    # Once nothing changes any more, the list is that of the last states.
    final = {r["run"]: {s["epoch"] for s in r["steps"]} for r in json.loads(get("/runs").data)}
    assert final == {run: {state} for run, state in data.states.items()}

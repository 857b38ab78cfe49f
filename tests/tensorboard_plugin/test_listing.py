"""Series are read when they change, records by their heads; a rewritten one is noticed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_morse.tensorboard_plugin import listing as listing_module
from lightning_morse.tensorboard_plugin.listing import Event, Listing, Stamp
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import decode, summary
from tests.plotting import test_basins_and_morse_graph as drawn


@pytest.fixture
def decoded(monkeypatch):
    """The texts whose summary was made."""
    seen = []

    def counted(event):
        seen.append(event.text)
        return make(event)

    make = listing_module._summary
    monkeypatch.setattr(listing_module, "_summary", counted)
    return seen


class Asked(Listing):
    """A listing of given series, which notes what it reads."""

    def __init__(self, **options):
        super().__init__(**{"second_looks": 0.0} | options)
        self.read = []

    def of(self, experiment, series):
        def read(key):
            self.read.append(key)
            if isinstance(series[key], Exception):
                raise series[key]
            return series[key]

        stamps = {
            key: Stamp(max(e.step for e in events), max(e.wall_time for e in events))
            if isinstance(events, list)
            else Stamp(7, 1.0)
            for key, events in series.items()
        }
        return super().of(experiment, stamps, read)


def event(step, make=drawn.line, wall_time=None):
    text = encode(make(), step=step).encode()
    return Event(step, 1e9 + step if wall_time is None else wall_time, text)


def series(runs=2, steps=3):
    return {(f"run{k}", "morse/record"): [event(s) for s in range(steps)] for k in range(runs)}


def test_a_second_listing_decodes_nothing(decoded):
    listing, data = Asked(), series()
    first = listing.of("", data)
    assert len(decoded) == 6
    expected = [summary(decode(e.text)) for e in data["run1", "morse/record"]]
    assert first["run1", "morse/record"] == expected
    decoded.clear()
    listing.read.clear()
    assert listing.of("", data) == first
    assert decoded == listing.read == []


def test_a_new_step_decodes_one(decoded):
    listing, data = Asked(), series()
    listing.of("", data)
    decoded.clear()
    data["run0", "morse/record"].append(event(3))
    found = listing.of("", data)
    assert decoded == [data["run0", "morse/record"][-1].text]
    assert [s["step"] for s in found["run0", "morse/record"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("time", [1.0, 1e9 + 1, 2e9], ids=["earlier", "same time", "later"])
def test_a_rewritten_record_is_decoded_again(decoded, time):
    """Also by a clock that runs backwards: then it is found at a second look."""
    listing, data = Asked(second_looks=60.0), series()
    listing.of("", data)
    decoded.clear()
    rewritten = event(1, make=lambda: drawn.plane(8), wall_time=time)
    data["run0", "morse/record"][1] = rewritten
    found = listing.of("", data)
    assert decoded == [rewritten.text]
    assert found["run0", "morse/record"][1]["attractors"] == 3


def test_runs_tags_and_experiments_do_not_mix(decoded):
    listing = Asked()
    one, other = event(0), event(0, make=lambda: drawn.plane(8))
    found = listing.of("", {("a", "x/record"): [one], ("a", "y/record"): [other]})
    counts = [found["a", f"{tag}/record"][0]["attractors"] for tag in "xy"]
    assert counts == [2, 3]
    decoded.clear()
    listing.of("another", {("a", "x/record"): [one]})
    assert len(decoded) == 1


def test_a_record_that_cannot_be_read_is_tried_once(decoded):
    listing, data = Asked(), {("a", "x"): [Event(4, 1.0, b"{")]}
    for _ in range(2):
        ((found,),) = listing.of("", data).values()
        assert found["step"] == 4
        assert "cut off" in found["error"]
    assert decoded == [b"{"]


def test_what_is_kept_is_bounded_and_what_is_gone_forgotten(decoded):
    listing, data = Asked(limit=4), series()
    first = listing.of("", data)
    assert len(listing) == 3
    decoded.clear()
    assert listing.of("", data) == first
    assert len(decoded) == 3  # the series beyond the limit, and no other
    listing.of("", {("run0", "morse/record"): data["run0", "morse/record"][:1]})
    assert len(listing) == 1


def test_a_second_look_is_at_what_was_not_looked_at_for_longest(monkeypatch):
    """With time for one series at a time, all of them come up in turn."""
    listing, data = Asked(second_looks=1.0), series(runs=3)
    now = iter(range(10**6))
    monkeypatch.setattr(listing_module.time, "monotonic", lambda: float(next(now)))
    listing.of("", data)
    listing.read.clear()
    seen = []
    for _ in range(6):
        listing._second_looks = 1.5
        listing.of("", data)
        seen.append(listing.read[-1][0])
    assert seen == ["run0", "run1", "run2"] * 2


def test_one_run_that_cannot_be_read_spoils_no_other():
    listing, data = Asked(), series()
    bad = ("bad", "morse/record")
    found = listing.of("", {**data, bad: TypeError("no tensor")})
    assert found[bad] == [{"step": 7, "error": "the run cannot be read: no tensor"}]
    assert [s["step"] for s in found["run0", "morse/record"]] == [0, 1, 2]
    whole = listing.of("", {**data, bad: [event(7)]})
    assert "error" not in whole[bad][0]


def test_the_head_of_a_record_is_enough():
    """The rest is not looked at, but for its end; an older record is read as a whole."""
    text = encode(drawn.line(), step=3)
    at = text.index('"labels"')
    spoilt = text[:at] + '"labels":[0],' + text[at:]
    data = {("a", "x"): [Event(3, 1.0, spoilt.encode())]}
    assert Asked().of("", data)["a", "x"] == [summary(decode(text))]
    cut = {("a", "x"): [Event(3, 1.0, text[:-1].encode())]}
    assert "not cut off" in Asked().of("", cut)["a", "x"][0]["error"]
    raw = json.loads(text)
    del raw["summary"]
    old = {("a", "x"): [Event(3, 1.0, json.dumps(raw).encode())]}
    assert Asked().of("", old)["a", "x"] == [summary(decode(text))]


def test_requests_at_the_same_time_share_the_work(decoded):
    listing, data = Asked(), series(runs=20)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: listing.of("", data), range(10)))
    assert len(decoded) == 60
    assert all(answer == answers[0] for answer in answers)


def test_one_series_is_read_only_where_it_changed(decoded):
    listing, data = Asked(), series()
    key, read = ("run0", "morse/record"), []

    def one(stamp):
        def reading(asked):
            read.append(asked)
            return data[asked]

        return listing.one("", key, stamp, reading)

    before = one(Stamp(2, 1e9 + 2))  # of a list that nobody has asked for yet
    assert [s["step"] for s in before] == [0, 1, 2]
    whole = listing.of("", data)
    read.clear()
    assert one(Stamp(2, 1e9 + 2)) == whole[key] == before
    assert read == []
    data[key].append(event(3))
    assert [s["step"] for s in one(Stamp(3, 1e9 + 3))] == [0, 1, 2, 3]
    assert read == [key]
    decoded.clear()
    assert [s["step"] for s in listing.of("", data)[key]] == [0, 1, 2, 3]
    assert decoded == []

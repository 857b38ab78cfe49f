"""Each record is decoded once, whatever is asked how often; a rewritten one is noticed."""

import pytest

from lightning_morse.tensorboard_plugin import listing as listing_module
from lightning_morse.tensorboard_plugin.listing import Event, Listing
from lightning_morse.view.record import decode, encode, summary
from tests.plotting import test_basins_and_morse_graph as drawn


@pytest.fixture
def decoded(monkeypatch):
    """The texts that were decoded."""
    seen = []

    def counted(text):
        seen.append(text)
        return decode(text)

    monkeypatch.setattr(listing_module, "decode", counted)
    return seen


def event(step, make=drawn.line, wall_time=None):
    text = encode(make(), step=step).encode()
    return Event(step, 1e9 + step if wall_time is None else wall_time, text)


def series(runs=2, steps=3):
    return {(f"run{k}", "morse/record"): [event(s) for s in range(steps)] for k in range(runs)}


def test_a_second_listing_decodes_nothing(decoded):
    listing, data = Listing(), series()
    first = listing.of("", data)
    assert len(decoded) == 6
    expected = [summary(decode(e.text)) for e in data["run1", "morse/record"]]
    assert first["run1", "morse/record"] == expected
    decoded.clear()
    assert listing.of("", data) == first
    assert decoded == []


def test_a_new_step_decodes_one(decoded):
    listing, data = Listing(), series()
    listing.of("", data)
    decoded.clear()
    data["run0", "morse/record"].append(event(3))
    found = listing.of("", data)
    assert decoded == [data["run0", "morse/record"][-1].text]
    assert [s["step"] for s in found["run0", "morse/record"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("later", [1e9 + 1, 2e9], ids=["same time", "later"])
def test_a_rewritten_record_is_decoded_again(decoded, later):
    listing, data = Listing(), series()
    listing.of("", data)
    decoded.clear()
    rewritten = event(1, make=lambda: drawn.plane(8), wall_time=later)
    data["run0", "morse/record"][1] = rewritten
    found = listing.of("", data)
    assert decoded == [rewritten.text]
    assert found["run0", "morse/record"][1]["attractors"] == 3


def test_runs_tags_and_experiments_do_not_mix(decoded):
    listing = Listing()
    one, other = event(0), event(0, make=lambda: drawn.plane(8))
    found = listing.of("", {("a", "x/record"): [one], ("a", "y/record"): [other]})
    counts = [found["a", f"{tag}/record"][0]["attractors"] for tag in "xy"]
    assert counts == [2, 3]
    decoded.clear()
    listing.of("another", {("a", "x/record"): [one]})
    assert len(decoded) == 1


def test_a_record_that_cannot_be_read_is_tried_once(decoded):
    listing, data = Listing(), {("a", "x"): [Event(4, 1.0, b"{")]}
    for _ in range(2):
        ((found,),) = listing.of("", data).values()
        assert found["step"] == 4
        assert "cut off" in found["error"]
    assert decoded == [b"{"]


def test_what_is_kept_is_bounded_and_what_is_gone_forgotten(decoded):
    listing, data = Listing(limit=4), series()
    first = listing.of("", data)
    assert len(listing) == 4
    decoded.clear()
    assert listing.of("", data) == first
    assert len(decoded) == 2  # those beyond the limit, and no others
    listing.of("", {("run0", "morse/record"): data["run0", "morse/record"][:1]})
    assert len(listing) == 1

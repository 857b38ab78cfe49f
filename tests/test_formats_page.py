"""The page of the file formats says what the tables say, and the tables what is written."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from lightning_morse import Connectivity, Run, facts
from lightning_morse.mode_connectivity import file as barriers
from lightning_morse.mode_connectivity.record import Profile
from lightning_morse.result import layout as analysis
from lightning_morse.trajectories import runs
from lightning_morse.view import layout as view
from lightning_morse.view.encoding import encode
from tests.plotting import test_basins_and_morse_graph as drawn

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_that_of_the_tables():
    """``python docs/formats_page.py`` writes it."""
    page = runpy.run_path(str(DOCS / "formats_page.py"))["page"]()
    assert (DOCS / "formats.md").read_text() == page


def names(members):
    return {m.name for m in members}


def test_whatever_is_written_of_an_analysis_is_in_its_table(tmp_path):
    drawn.plane_tower(16).save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    plain = json.loads(arrays.pop("facts").tobytes())
    assert set(plain) - {"format"} == names(analysis.FACTS)
    inside = {n.removeprefix("box1_") for n in arrays if n.startswith("box1_")}
    assert inside <= names(analysis.BOX_ARRAYS)
    outside = {n for n in arrays if not n.startswith("box")}
    assert outside <= names(analysis.ARRAYS)
    (sets,) = [m for m in analysis.FACTS if m.name == "sets"]
    assert set(plain["sets"][0]) == names(sets.parts)


@pytest.mark.parametrize(
    ("kind", "table", "besides"),
    [
        (facts.SurrogateFacts, analysis.LOSS_FACTS, set()),
        (facts.MapFacts, analysis.MAP_FACTS, {"betti"}),
    ],
)
def test_facts_about_surrogates_are_in_their_tables(kind, table, besides):
    assert {field.name for field in dataclasses.fields(kind)} == names(table) | besides


def test_whatever_is_written_of_a_run_is_in_its_table(tmp_path):
    Run("a", np.arange(2), np.zeros((2, 1)), np.zeros(2)).save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) - {"facts"} == names(runs.ARRAYS)
        plain = json.loads(file["facts"].tobytes())
    assert set(plain) - {"format"} == names(runs.FACTS)


def test_whatever_is_written_of_barriers_is_in_its_table(tmp_path):
    profile = Profile(np.array([0.0, 1.0]), np.zeros(2), np.zeros((3, 5)))
    none = np.zeros((2, 2))
    record = Connectivity(("a", "b"), np.zeros(2), none, none, none, 1.0, 0.9, (profile,), 3)
    record.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) - {"facts"} == names(barriers.ARRAYS)
        plain = json.loads(file["facts"].tobytes())
    assert set(plain) - {"format"} == names(barriers.FACTS)


def test_whatever_is_written_of_a_view_is_in_its_table():
    given = {"identities": {0: 1, 1: 2, 2: 3}, "verdict": "x", "loss_of": "y"}
    raw = json.loads(encode(drawn.plane_tower(16), **given))
    table = [view.SUMMARY, *view.BOX, view.SETS, *view.REST, view.INNER]
    assert set(raw) == names(table) | {"format", "version"}
    assert set(raw["inner"][0]) <= names(view.BOX)
    for member in table:
        if member.parts:
            value = raw[member.name]
            assert set(value[0] if member.shape else value) == names(member.parts), member.name

"""Damaged files of the four formats: refused by one exception, or as sound as an honest one.

MORSE_MUTATIONS=3000 python -m pytest tests/test_fuzz.py    # the long form, some minutes
"""

import dataclasses
import json
import os
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy

from lightning_morse import Connectivity, DamagedFile, MorseAnalysis, Run
from lightning_morse.mode_connectivity.record import Profile
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import decode
from tests import mutations
from tests.plotting import test_basins_and_morse_graph as drawn

MUTATIONS = int(os.environ.get("MORSE_MUTATIONS", "120"))
MEMORY = 1.5  # times what the honest file takes
SLACK = 300_000  # bytes: messages, tracebacks, what modules keep


def sound_analysis(result):
    """What a reader of an analysis relies on; none of it is taken from the tables."""
    n, sets = len(result.morse_sets), result.morse_sets
    assert 0 <= result.mu <= 1
    assert 0 <= result.confidence <= 1
    assert set(result.graph) == set(range(n))
    order = {i: k for k, i in enumerate(drawn.nx.topological_sort(result.graph))}
    assert len(order) == n
    assert result.samples.shape == (len(result.sample_losses), result.grid.dim)
    assert np.isfinite(result.samples).all()
    assert result.ladder.blocks.shape == (len(result.ladder.levels), result.n_attractors)
    assert result.exit_volumes.shape == (result.grid.dim, 2)
    for m in sets:
        assert m.cells.dtype.kind in "iu"
        assert ((m.cells >= 0) & (m.cells < result.grid.size)).all()
        assert (m.cells[1:] > m.cells[:-1]).all()
        assert m.cells.size
        assert 0 <= m.volume <= 1
        assert m.index is None or 0 <= m.index <= result.grid.dim
        assert m.mu is None or 0 <= m.mu <= 1
        assert m.center.shape == (result.grid.dim,)
    for box in result.boxes:
        vertices = tuple(k + 1 for k in box.grid.shape)
        assert box.labels.shape == box.diverged.shape == (box.grid.size,)
        assert ((box.labels >= -2) & (box.labels < result.n_attractors)).all()
        assert box.diverged.dtype == bool
        assert box.mean_loss.shape == vertices
        assert box.mean_loss.dtype.kind == "f"
        assert box.loss_deviation is None or box.loss_deviation.shape == vertices
        assert box.faces is None or box.faces.shape == (box.grid.size, box.grid.dim, 2)
        assert (box.grid.lower < box.grid.upper).all()
    assert result.table()
    assert result.claim
    assert 0 <= result.undecided <= 1
    x = np.random.default_rng(0).uniform(-3, 3, (50, result.grid.dim))
    assert result.basin_of(x).shape == (50,)


def sound_run(run):
    assert isinstance(run.run_id, str)
    assert run.seed is None or type(run.seed) is int
    assert run.hyper_parameters is None or isinstance(run.hyper_parameters, dict)
    assert run.states.dtype.kind == run.losses.dtype.kind == "f"
    assert run.states.shape[:1] == run.losses.shape == run.steps.shape
    assert all(a < b for a, b in zip(run.steps.tolist(), run.steps.tolist()[1:], strict=False))


def sound_record(record):
    n = len(record.sets)
    size = int(np.prod(record.shape))
    assert record.labels.shape == record.owner.shape == record.diverged.shape == (size,)
    assert ((record.labels >= -2) & (record.labels < n)).all()
    assert len(set(record.edges)) == len(record.edges)
    graph = drawn.nx.DiGraph(record.edges)
    assert drawn.nx.is_directed_acyclic_graph(graph)
    for name in ("mu", "confidence", "escape", "undecided"):
        assert 0 <= record.facts[name] <= 1
    assert all(0 <= m["volume"] <= 1 for m in record.sets)
    assert all(m["mu"] is None or 0 <= m["mu"] <= 1 for m in record.sets)
    assert all(np.isfinite(v) for v in record.scalars.values())
    assert "NaN" not in record.text
    assert "Infinity" not in record.text


def sound_barriers(record):
    k = len(record.names)
    assert k >= 2
    assert record.losses.shape == (k,)
    for matrix in (record.lower, record.barriers, record.upper):
        assert matrix.shape == (k, k)
    assert (record.lower <= record.upper).all()
    assert len(record.profiles) == len(record.pairs)
    for profile in record.profiles:
        assert profile.shares.shape == profile.losses.shape
        assert profile.band.shape[0] == 3
    assert sorted(n for group in record.groups for n in group) == list(range(k))
    assert record.table()
    assert record.summary()


def an_analysis(path):
    result = drawn.plane_tower(16)
    dataclasses.replace(result, seconds={"fit": 1.0}).save(path)


def a_run(path):
    states = np.random.default_rng(0).normal(size=(12, 5))
    Run("a", np.arange(12), states, np.ones(12), 3, {"lr": 0.1}).save(path)


def a_record(path):
    text = encode(drawn.plane_tower(16), scalars={"morse/mu": 0.5}, trajectory=np.zeros((3, 2)))
    path.write_text(text)


def barriers(path):
    bounds = np.array([[0, 1, 3], [1, 0, 2.0], [3, 2, 0]])
    shares = np.array([0.0, 1.0, 0.5])
    profile = Profile(shares, shares**2, np.zeros((3, 9)), "too few")
    record = Connectivity(
        ("a", "b", "c"), shares, bounds, bounds, bounds, 1.5, 0.95, (profile,) * 3, 9, ("a note",)
    )
    record.save(path)


FORMATS = {
    "barriers": (barriers, Connectivity.load, sound_barriers, mutations.OF_ARCHIVES),
    "analysis": (an_analysis, MorseAnalysis.load, sound_analysis, mutations.OF_ARCHIVES),
    "run": (a_run, Run.load, sound_run, mutations.OF_ARCHIVES),
    "record": (a_record, lambda p: decode(p.read_bytes()), sound_record, mutations.OF_TEXTS),
}


def memory_of(load, path):
    """What loading returns or raises, and the most memory it takes."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        found = load(path)
    except DamagedFile as error:
        found = error
    return found, tracemalloc.get_traced_memory()[1] - before


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_or_harmless(name, tmp_path):
    write, load, sound, kinds = FORMATS[name]
    path = tmp_path / "file"
    write(path)
    honest = path.read_bytes()
    sound(load(path))
    refused = 0
    tracemalloc.start()
    try:
        most = MEMORY * memory_of(load, path)[1] + SLACK
        for seed in range(MUTATIONS):
            rng = np.random.default_rng([len(name), seed])
            kind = kinds[seed % len(kinds)]
            path.write_bytes(kind(honest, rng))
            try:
                found, memory = memory_of(load, path)
                if isinstance(found, DamagedFile):
                    refused += 1
                    assert str(found)
                    assert found.expected
                else:
                    sound(found)
                assert memory <= most
            except Exception as error:
                raise AssertionError(f"mutation {seed}, {kind.__name__}: {error!r}") from error
    finally:
        tracemalloc.stop()
    print(f"{name}: {refused} of {MUTATIONS} refused, the others are sound")
    assert refused > MUTATIONS / 3


EXAMPLES = int(os.environ.get("MORSE_EXAMPLES", "20"))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
RECORD = json.loads(encode(drawn.plane(4)))


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
@given(name=st.sampled_from(sorted(RECORD)), value=anything)
def test_any_value_in_the_place_of_a_part_of_a_record(name, value):
    with suppress(DamagedFile):
        sound_record(decode(json.dumps({**RECORD, name: value})))


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
@given(text=st.binary(max_size=200) | st.text(max_size=200) | anything.map(json.dumps))
def test_any_text_is_no_record(text):
    with pytest.raises(DamagedFile):
        decode(text)


arrays = st.sampled_from(["f8", "f2", "i8", "u1", "?", "c8", "S2", "<U1", "M8[s]"]).flatmap(
    lambda dtype: numpy.arrays(dtype, numpy.array_shapes(min_dims=0, max_dims=3, max_side=3))
)


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
@given(
    facts=anything | st.fixed_dictionaries(
        {"format": st.just(1) | leaves, "run_id": leaves, "seed": leaves,
         "hyper_parameters": anything}
    ),
    members=st.fixed_dictionaries({"steps": arrays, "states": arrays, "losses": arrays}),
    tail=st.binary(max_size=3),
)  # fmt: skip
def test_any_members_in_the_file_of_a_run(facts, members, tail, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    np.savez(path, facts=text, **members)
    with path.open("ab") as file:
        file.write(tail)
    with suppress(DamagedFile):
        sound_run(Run.load(path))

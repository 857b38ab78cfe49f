"""The file of a result: facts that an archive lacks or that are unknown, and damage."""

import json

import numpy as np
import pytest

from lightning_morse import archive, facts
from lightning_morse.facts import SurrogateFacts

SOME = SurrogateFacts("k", 3, (1.0, 2.0), 0.0, 1.0, 0.1, 0.5, None, -3.0, 1.0, 0.0, 4.5)


def test_facts_and_arrays_come_back(tmp_path):
    archive.write(tmp_path / "a.npz", {"a": 1, "b": [None, "c"]}, {"x": np.arange(3)})
    plain, arrays = archive.read(tmp_path / "a.npz")
    assert plain == {"format": archive.FORMAT_VERSION, "a": 1, "b": [None, "c"]}
    assert list(arrays) == ["x"]
    assert arrays["x"].tolist() == [0, 1, 2]


def test_whatever_is_wrong_with_a_file_is_said_of_the_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    with (
        pytest.raises(ValueError, match=r"a\.npz does not hold a Morse analysis"),
        archive.explained(tmp_path / "a.npz"),
    ):
        archive.read(tmp_path / "a.npz")


def test_facts_survive_json():
    assert facts.restored(json.loads(json.dumps(facts.stored(SOME)))) == SOME
    assert facts.stored(None) is None
    assert facts.restored(None) is None
    assert facts.restored({}) is None


def test_facts_that_are_missing_or_unknown_are_named():
    raw = facts.stored(SOME)
    del raw["mean"]
    with pytest.raises(ValueError, match=r"lack \['mean'\] and have \['colour'\] besides"):
        facts.restored({**raw, "colour": 1})

"""The file of a result: facts that an archive lacks or that are unknown, and damage."""

import json
import os
import zipfile

import numpy as np
import pytest

from lightning_morse import DamagedFile, facts
from lightning_morse.facts import SurrogateFacts
from lightning_morse.files import archive
from lightning_morse.files.schema import Check, Member

SOME = SurrogateFacts("k", 3, (1.0, 2.0), 0.0, 1.0, 0.1, 0.5, None, -3.0, 1.0, 0.0, 4.5)


NUMBERS = (Member("x", "integer", "some", ("n",), low=0),)


def read(path, members=NUMBERS):
    with archive.opened(path, "a thing") as file:
        return file.facts(archive.FORMAT_VERSION), file.arrays(members, Check("a thing"))


def test_facts_and_arrays_come_back(tmp_path):
    archive.write(tmp_path / "a.npz", {"a": 1, "b": [None, "c"]}, {"x": np.arange(3)})
    plain, arrays = read(tmp_path / "a.npz")
    assert plain == {"format": archive.FORMAT_VERSION, "a": 1, "b": [None, "c"]}
    assert list(arrays) == ["x"]
    assert arrays["x"].tolist() == [0, 1, 2]


def test_arrays_of_any_order_come_back(tmp_path):
    x = np.arange(6).reshape(2, 3)
    members = (Member("x", "integer", "some", ("n", "m")),)
    for array in (x, np.asfortranarray(x), x.astype(">i2"), x.astype("u1")):
        archive.write(tmp_path / "a.npz", {}, {"x": array})
        back = read(tmp_path / "a.npz", members)[1]["x"]
        assert np.array_equal(back, x)
        back += 1  # it may be written to


def test_whatever_is_wrong_with_a_file_is_said_of_the_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    with pytest.raises(DamagedFile, match=r"a\.npz does not hold a thing") as error:
        read(tmp_path / "a.npz")
    assert error.value.file == str(tmp_path / "a.npz")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "a.npz")


def test_a_disk_that_fails_is_no_damage(tmp_path):
    archive.write(tmp_path / "a.npz", {}, {"x": np.arange(3)})
    with (
        pytest.raises(OSError, match="broken disk"),
        archive.opened(tmp_path / "a.npz", "a thing"),
    ):
        raise OSError(5, "broken disk")


def written(path, name, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "a", method) as file:
        file.writestr(name, content)


def array_text(shape, dtype="<i8", content=b""):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (array_text("(10**12,)"), "an array of numbers"),
        (array_text("(1000000000000,)"), "8000000000000 bytes"),
        (array_text("(3,)", content=bytes(23)), "24 bytes"),
        (array_text("(3,)", content=bytes(25)), "24 bytes"),
        (array_text("(3,)", "|O", bytes(24)), "an array of numbers"),
        (array_text("(3,)", "<f8", bytes(24)), "integer, n, at least 0"),
        (array_text("(3, 1)", content=bytes(24)), "integer of shape"),
        (array_text("(-3,)", content=bytes(24)), "an array of numbers"),
        (b"text", "an array of NumPy"),
        (b"", "an array of NumPy"),
    ],
)
def test_what_is_no_such_array_is_refused_before_it_is_read(content, expected, tmp_path):
    archive.write(tmp_path / "a.npz", {}, {})
    written(tmp_path / "a.npz", "x.npy", content)
    with pytest.raises(DamagedFile) as error:
        read(tmp_path / "a.npz")
    assert (error.value.member, error.value.expected[: len(expected)]) == ("x", expected)


def test_sizes_that_lie_are_refused(tmp_path):
    """The directory at the end of an archive may promise anything of its members."""
    path = tmp_path / "a.npz"
    archive.write(path, {}, {})
    written(path, "x.npy", array_text("(100,)", content=bytes(800)))
    honest = path.read_bytes()
    at = honest.rindex(b"PK\x01\x02")
    for offset in (20, 24):  # packed and unpacked size
        for lie in (0, 10, 2**31, 2**32 - 2):
            start = at + offset
            content = honest[:start] + lie.to_bytes(4, "little") + honest[start + 4 :]
            path.write_bytes(content)
            with pytest.raises(DamagedFile):
                read(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    archive.write(tmp_path / "a.npz", {}, {"x": np.arange(3)})
    with pytest.warns(UserWarning, match="Duplicate name"):
        written(tmp_path / "a.npz", "x.npy", array_text("(0,)"))
    with pytest.raises(DamagedFile, match='"x" should be there once'):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path, method):
    archive.write(tmp_path / "a.npz", {}, {})
    written(tmp_path / "a.npz", "x.npy", array_text("(0,)"), method)
    with pytest.raises(DamagedFile, match="stored or deflated"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"[" * 10**5, b"{}", b'{"format": 2' + b"1" * 5000 + b"}"]
)
def test_facts_that_are_none_are_refused(text, tmp_path):
    written(tmp_path / "a.npz", "facts.npy", array_text(f"({len(text)},)", "|u1", text))
    with pytest.raises(DamagedFile) as error:
        read(tmp_path / "a.npz", ())
    assert error.value.member == "facts"


def test_another_format_is_refused(tmp_path):
    archive.write(tmp_path / "a.npz", {}, {}, version=1)
    with pytest.raises(DamagedFile, match="its format is 1, this version reads 2"):
        read(tmp_path / "a.npz", ())


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

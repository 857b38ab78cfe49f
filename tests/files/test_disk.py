"""How much of a disk may be taken."""

import errno
import shutil
from types import SimpleNamespace

import pytest

from lightning_morse.files import disk
from lightning_morse.files.disk import leave_room

MiB = 2**20


@pytest.fixture
def free(monkeypatch):
    """Sets what is free, MiB."""

    def of(n):
        usage = SimpleNamespace(free=n * MiB)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    return of


@pytest.mark.parametrize(
    ("n_free", "most"),
    [(1000, 200), (100, 20), (20, 4), (18, 2), (16, 0)],
)
def test_a_fifth_may_be_taken_and_16_mib_stay(n_free, most, free, tmp_path):
    free(n_free)
    leave_room(tmp_path, most * MiB)
    with pytest.raises(OSError, match="No space left on device: ") as caught:
        leave_room(tmp_path, most * MiB + 1)
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_takes_nothing(free, tmp_path):
    free(0)
    with pytest.raises(OSError, match="0 MiB would be taken of 0 MiB that are free"):
        leave_room(tmp_path, 0)


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_the_one_above(tmp_path):
    assert disk._free(tmp_path / "a/b") == pytest.approx(disk._free(tmp_path), rel=0.1)
    with pytest.raises(OSError, match="No space left"):
        leave_room(tmp_path / "a/b", 2**60)


def test_what_is_no_disk_refuses_nothing():
    leave_room("s3://bucket/run", 2**60)

"""A file is there in whole or not at all, whoever writes it and whatever happens meanwhile."""

import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lightning_morse.files.atomic import write_whole, written_whole

ROOT = Path(__file__).parents[2]


def interrupted(path, error):
    with written_whole(path) as file:
        file.write(b"new")
        raise error


def test_what_raises_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", b"old")
    for error in (KeyboardInterrupt, OSError, SystemExit):
        with pytest.raises(error):
            interrupted(tmp_path / "a", error)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_two_that_write_the_same_file_do_not_meet(tmp_path):
    with written_whole(tmp_path / "a") as first, written_whole(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"  # the last one to end
    texts = [bytes([k]) * 10_000 for k in range(8)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "b", t)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "b").read_bytes() in texts
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def node(path):
    """A device of our own, with the numbers of that which takes everything."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "a named pipe"), (node, "a device"), (os.mkdir, "a folder")]
)
@pytest.mark.parametrize("by_link", [False, True])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, make, kind, by_link):
    make(tmp_path / "there")
    before = os.lstat(tmp_path / "there")
    name = "link" if by_link else "there"
    if by_link:
        (tmp_path / name).symlink_to("there")
    with pytest.raises(OSError, match=rf"{name} must be a new file .*, but it is {kind}; give"):
        write_whole(tmp_path / name, b"new")
    assert os.lstat(tmp_path / "there") == before
    assert len(os.listdir(tmp_path)) == 1 + by_link


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/a")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "folder/a").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "folder") == ["a"]


def aged(path, days, content=b"half"):
    path.write_bytes(content)
    then = time.time() - 86_400 * days
    os.utime(path, (then, then))
    return path


def test_what_killed_writes_left_is_removed_after_a_day(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [
        aged(tmp_path / f".a.{dead.pid}.3.partial", 2),
        aged(tmp_path / ".b.4194305.partial", 2),
    ]
    kept = [
        aged(tmp_path / f".a.{dead.pid}.4.partial", 0.5),  # not yet
        aged(tmp_path / f".a.{os.getpid()}.99.partial", 2),  # of a live process
        aged(tmp_path / "a.partial", 2),  # not ours
        aged(tmp_path / ".partial", 2),
    ]
    write_whole(tmp_path / "c", b"new")
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in kept)


# It says when it begins; interrupts end it in the background of a shell, too.
WRITER = """
import signal, sys
from lightning_morse.files.atomic import written_whole
signal.signal(signal.SIGINT, signal.default_int_handler)
print("on", flush=True)
for k in range(10**6):
    with written_whole(sys.argv[1]) as file:
        for _ in range(50):
            file.write(b"%07d\\n" % k * 500)
"""


@pytest.mark.slow
def test_forty_kills_at_random_moments_leave_a_whole_file(tmp_path):
    """Each file that is there after a kill is one of those that were written."""
    rng, path = random.Random(0), tmp_path / "a"
    write_whole(path, b"%07d\n" % 0 * 25_000)
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
        process.communicate(timeout=60)
        lines = path.read_bytes().splitlines()
        assert len(lines) == 25_000
        assert len(set(lines)) == 1

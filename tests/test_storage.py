"""Files that several processes share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.storage import locked, written_whole

ROOT = Path(__file__).parents[1]


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "record"
    path.write_bytes(b"old")
    with written_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["record"]


def test_it_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        with written_whole(tmp_path / "record") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o644


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, file_size_limit):
    path = tmp_path / "record"
    path.write_bytes(b"old")
    with file_size_limit(10), pytest.raises(OSError), written_whole(path) as file:
        file.write(bytes(100))
    with pytest.raises(KeyboardInterrupt), written_whole(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["record"]


def test_one_process_at_a_time(tmp_path):
    code = "import sys; from cnnjax.storage import locked\nwith locked(__import__('pathlib').Path(sys.argv[1])): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"1\n"
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    other.kill()
    other.communicate()
    with locked(tmp_path / "lock", wait=False):
        pass

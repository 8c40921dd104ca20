"""One writer a run directory."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnjax.errors import UserError
from cnnjax.run_directory import lock

HOLDER = """
import sys, time
from pathlib import Path
from cnnjax.run_directory import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_told_who_has_it(tmp_path):
    with lock.held(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "), lock.held(tmp_path):
            pass
    with lock.held(tmp_path):
        pass


def test_the_lock_dies_with_its_holder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), lock.held(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    started = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - started < 1


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(UserError, match="cannot be written to: No such file or directory"), lock.held(tmp_path / "no"):
        pass

"""What the process does with freed memory."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only the GNU C library is told what to keep")
CODE = """
import os
{first}
def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
before = megabytes()
memory = [bytearray(size * 1_000_000) for size in (20, 80)]
del memory
print(megabytes() - before)
"""


def kept(first: str, **environment) -> float:
    """Megabytes, of 100 that were taken and freed, that the process still has."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", CODE.replace("{first}", first)]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_freed_memory_is_kept():
    assert kept("import cnnjax") > 95
    assert kept("from cnnjax.memory import keep_freed_memory\nassert keep_freed_memory()") > 95
    assert kept("") < 5


def test_someone_elses_choice_stands():
    theirs = "from cnnjax.memory import keep_freed_memory\nassert not keep_freed_memory()"
    assert kept(theirs, MALLOC_ARENA_MAX="3") < 5

"""What the process does with freed memory."""

import os
import subprocess
import sys

CODE = """
import os, resource
{first}
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): np.ones(20_000_000)
before = faults()
for _ in range(5): np.ones(20_000_000)
print((faults() - before) * resource.getpagesize() / (5 * 160e6))
"""


def cleared(first: str, **environment) -> float:
    """The part of five large arrays whose pages the system had to hand over anew."""
    code = CODE.replace("{first}", first)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_freed_memory_is_used_again():
    keep = "from cnnjax.memory import keep_freed_memory\nassert keep_freed_memory()"
    assert cleared("import cnnjax") < 0.05
    assert cleared(keep) < 0.05


def test_someone_elses_choice_stands():
    assert (
        cleared("from cnnjax.memory import keep_freed_memory\nassert not keep_freed_memory()", MALLOC_ARENA_MAX="3") > 0
    )

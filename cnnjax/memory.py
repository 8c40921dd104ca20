"""How this process keeps memory, which decides how fast XLA computes on a CPU."""

import ctypes
import os
import platform
import sys

# malloc.h of the GNU C library
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Makes the GNU C library keep the memory that is freed, in one heap, for what is allocated next.

    By default it returns large blocks to the system at once. XLA allocates the buffers of a step anew at each step, so
    that the system hands every page of them over, cleared, again and again: up to four fifths of the time of an
    operation on large arrays. Memory that the process used once stays its own until it ends.

    Call it before JAX starts its threads. Does nothing, and says so, with another C library, or where an environment
    variable MALLOC_* says that someone has already chosen.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # as a size: the largest
    settings = ((M_TRIM_THRESHOLD, never), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1))
    return all([mallopt(parameter, value) for parameter, value in settings])

"""oneDNN, the library of CNN primitives that Intel keeps, through its C interface (oneDNN 3.2, wheel onednn-cpu-gomp)."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

WHEEL = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
# How long a waiting OpenMP thread spins before it sleeps: the default burns the core that a data thread needs.
SPIN_COUNT = "2000"


class Unavailable(Exception):
    """Why oneDNN cannot be used here, in words that end with what to do, where something can be done."""


class Unsupported(Exception):
    """oneDNN has no primitive for these shapes."""


class Full(Unsupported):
    """One primitive more than a process may have, in words."""


class OneDNN:
    """The loaded library: a CPU engine, a stream, and calls that raise Unsupported instead of returning a status."""

    def __init__(self, library: ctypes.CDLL, openmp: ctypes.CDLL):
        self.library, self.openmp = library, openmp
        self.cores = openmp.omp_get_max_threads()
        library.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        library.dnnl_primitive_desc_query_md.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        library.dnnl_memory_desc_equal.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.engine = self.new("engine_create", ctypes.c_int(1), ctypes.c_size_t(0))
        self.stream = self.new("stream_create", self.engine, ctypes.c_int(1))

    def new(self, name: str, *arguments) -> ctypes.c_void_p:
        """What `dnnl_{name}` writes through its first argument. Never freed: compiled programs may hold it to the end."""
        handle = ctypes.c_void_p()
        status = getattr(self.library, f"dnnl_{name}")(ctypes.byref(handle), *arguments)
        if status:
            raise Unsupported(f"oneDNN's {name} answered {status}.")
        return handle

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """What this thread makes inside will be computed by so many."""
        self.openmp.omp_set_num_threads(count)
        try:
            yield
        finally:
            self.openmp.omp_set_num_threads(self.cores)

    def address(self, name: str) -> int:
        """Where the function `dnnl_{name}` stands."""
        return ctypes.cast(getattr(self.library, f"dnnl_{name}"), ctypes.c_void_p).value


@functools.cache
def load() -> OneDNN:
    """Loads the library, once.

    Raises:
      Unavailable: there is none for this machine, or it is not installed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"oneDNN's wheel is for Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    if "avx2" not in cpu_flags():
        raise Unavailable("this CPU has no AVX2")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when libgomp is loaded
    try:
        openmp = ctypes.CDLL("libgomp.so.1")
    except OSError:
        raise Unavailable("the system's libgomp.so.1 is missing: install the package libgomp1") from None
    path = _path()
    try:
        return OneDNN(ctypes.CDLL(str(path)), openmp)
    except (OSError, AttributeError, Unsupported) as error:
        raise Unavailable(f"{path} cannot be used ({error}): pip install --force-reinstall {WHEEL}") from None


def _path() -> Path:
    try:
        files = importlib.metadata.distribution(WHEEL).files or ()
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"{WHEEL} is not installed: pip install {WHEEL}") from None
    found = [Path(file.locate()).resolve() for file in files if file.name == LIBRARY]
    if not found or not found[0].is_file():
        raise Unavailable(f"{WHEEL} is installed without {LIBRARY}: pip install --force-reinstall {WHEEL}")
    return found[0]


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux names it; empty elsewhere."""
    return frozenset(_cpu("flags").split())


def bfloat16_pays() -> bool:
    """Does the CPU multiply bfloat16 faster than float32? With AMX, and AMD's AVX-512 (but not Intel's without AMX)."""
    flags = cpu_flags()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and _cpu("vendor_id") == "AuthenticAMD")


def alone_up_to(type_: str) -> float:
    """Multiply-adds up to which one thread is faster than several, which must first be woken: some 0.1 ms of work."""
    if type_ != "bfloat16":
        return 8e6
    return 4e7 if "amx_bf16" in cpu_flags() else 1.6e7


@functools.cache
def _cpu(field: str) -> str:
    """What Linux says of the first CPU; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")

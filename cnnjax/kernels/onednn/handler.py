"""The bridge from XLA to oneDNN: one native handler, and the table in which it finds the primitives of a call by key.

A compiled program holds a key, never an address: the hash of what a call does, the same in every process, so that a
program from the persistent compilation cache runs in a process that built the primitives anew. No GIL is taken.

What native threads may touch to the last moment of a process (machine code, table, states) is memory of the C library
that is never freed; Python's own may be gone by then.
"""

import ctypes
import functools
import hashlib
import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from cnnjax.kernels.onednn.library import Full, OneDNN, Unavailable, load
from cnnjax.kernels.onednn.primitives import Call

TARGET = "cnnjax_onednn"
VERSIONS = ((0, 3), (0, 4))  # of XLA's FFI (jaxlib 0.10, 0.11), whose structures agree in all that handler.c reads
SLOTS, FIRST = 1 << 14, 24  # of the table: how many, and where they begin
MOST = SLOTS // 2  # that are taken: a key is found the faster, the more are free
INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL

# handler.c, compiled by `make handler`; the placeholder stands for the table's address.
PLACEHOLDER = bytes.fromhex("8877665544332211")
CODE = bytes.fromhex(
    """
    4157415641554154554889fd5348bb88776655443322114883ec18488b47084885c0742483780801751e488b5710488b40188b4a208b5224
    89501c31d2894818895020e910010000488b85a0000000488bbb80000000488b00488b4008488b084889f84821c84889c248c1e2044801da
    488bb2c00000004839ce74114885f60f84b700000048ffc04821f8ebd94c8bb2c80000004889df4531e4ff5368418b7e10ff5378488d4528
    498d5618488904244989d54d6b06184e8d3c024d39fd733c49837d0800488b4b40488b04247404488d4550498b7510488b40204889542408
    4983c518498b7de8488b04f0488b7018ffd1488b5424084109c4ebb74d89fd496b460818488b73584c01f84939c57318498b4d10498b5508
    4983c518498b7de8ff53484109c4ebd74889f7ff53504889df4109c4ff53704585e4741c488b4510488b7b60488b40304883c4185b5d415c
    415d415e415fffe04883c41831c05b5d415c415d415e415fc3
    """
)


class Bridge:
    """The registered handler. `key(what, build)` makes its table know a call."""

    def __init__(self, onednn: OneDNN):
        self.onednn = onednn
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[int, list[int]]] = {}
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = ctypes.c_void_p
        self._libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
        message = ctypes.addressof(self._kept(ctypes.c_char, b"a oneDNN primitive failed\0"))
        error = ctypes.addressof(self._kept(ctypes.c_int64, [32, 0, message, INTERNAL]))
        self._table = self._kept(ctypes.c_int64, [0] * (FIRST + 2 * SLOTS))
        self._table[8:17] = [
            onednn.address("memory_set_data_handle"),
            onednn.address("primitive_execute"),
            onednn.address("stream_wait"),
            onednn.stream.value,
            error,
            address(self._libc.pthread_mutex_lock),
            address(self._libc.pthread_mutex_unlock),
            address(onednn.openmp.omp_set_num_threads),
            SLOTS - 1,
        ]
        code = _executable(CODE.replace(PLACEHOLDER, ctypes.addressof(self._table).to_bytes(8, "little")))
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(ctypes.c_void_p(code)), platform="cpu")

    def _kept(self, kind: type, values: Sequence) -> Any:
        """An array in memory that outlives Python."""
        array = (kind * len(values)).from_address(self._libc.calloc(len(values), ctypes.sizeof(kind)))
        array[:] = values
        return array

    def key(self, what: str, build: Callable[[], Call], threads: int) -> tuple[int, list[int]]:
        """(the key of a call, the sizes in bytes of its further results). It is built when it is first asked for.

        So many threads work at it, always: oneDNN divides the work when a primitive is made.

        Raises:
          Unsupported: by `build`.
          Full: there is no room for another.
        """
        with self._lock:
            if what not in self._keys:
                if len(self._keys) >= MOST:
                    raise Full(f"more than {MOST} different oneDNN kernels in one process: further ones are portable")
                digest = hashlib.blake2b(what.encode(), digest_size=8).digest()
                key = int.from_bytes(digest, "little", signed=True) | 1  # 0 marks an empty slot
                with self.onednn.threads(threads):
                    call = build()
                self._add(key, call, threads)
                self._keys[what] = key, [size for _, size in call.further]
            return self._keys[what]

    def _add(self, key: int, call: Call, threads: int) -> None:
        results = [*call.results, *(memory for memory, _ in call.further)]
        values = [len(call.arguments) + len(results), len(call.runs), threads]
        for is_result, memories in enumerate((call.arguments, results)):
            values += [value for index, memory in enumerate(memories) for value in (memory, is_result, index)]
        for primitive, arguments in call.runs:
            pairs = self._kept(ctypes.c_int64, [value for pair in arguments for value in pair])
            values += [primitive, len(arguments), ctypes.addressof(pairs)]
        slot = key & (SLOTS - 1)
        while self._table[FIRST + 2 * slot]:
            if self._table[FIRST + 2 * slot] == key:
                raise RuntimeError("Two different kernels have the same key.")
            slot = (slot + 1) & (SLOTS - 1)
        self._table[FIRST + 1 + 2 * slot] = ctypes.addressof(self._kept(ctypes.c_int64, values))
        self._table[FIRST + 2 * slot] = key  # last: readers take no lock


def bridge() -> Bridge:
    """Loads oneDNN and registers the handler, once, whichever thread is first.

    Raises:
      Unavailable: oneDNN cannot be used with this machine or this version of XLA.
    """
    with _lock:
        return _bridge()


_lock = threading.Lock()  # which `functools.cache` does not have


@functools.cache
def _bridge() -> Bridge:
    onednn = load()
    version = ffi_version()
    if version not in VERSIONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
        raise Unavailable(f"XLA's FFI has version {version[0]}.{version[1]}, this code knows {known}")
    try:
        return Bridge(onednn)
    except (OSError, PermissionError) as error:
        raise Unavailable(f"this system allows no generated machine code ({error})") from None


def _executable(code: bytes) -> int:
    """Machine code in memory of its own, first written, then made executable; the address."""
    size = mmap.PAGESIZE * -(-len(code) // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if page in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap failed")
    ctypes.memmove(page, code, len(code))
    if libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "mprotect failed")
    return page


@functools.cache
def ffi_version() -> tuple[int, int]:
    """(major, minor) of the FFI of the XLA that runs, as it says in the call frame with which it greets a handler."""
    jax.devices("cpu")  # handlers registered before there is a CPU client wait for it
    found = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def greet(frame: int):
        word = lambda address: ctypes.c_int64.from_address(address).value
        half = lambda address: ctypes.c_int.from_address(address)
        extension, api = word(frame + 8), word(frame + 16)
        if extension and half(extension + 8).value == 1:
            version = half(api + 32).value, half(api + 36).value
            metadata = word(extension + 24)
            half(metadata + 24).value, half(metadata + 28).value, half(metadata + 32).value = *version, 0
            found.append(version)

    jax.ffi.register_ffi_target(
        "cnnjax_greeting", jax.ffi.pycapsule(ctypes.cast(greet, ctypes.c_void_p)), platform="cpu"
    )
    _KEPT.append(greet)
    return found[0] if found else (-1, -1)


_KEPT: list[Any] = []  # what XLA may still call

"""Compiled programs, kept in a folder of the user's own, so that the next run starts at once."""

import contextlib
import os
import time
import zlib
from pathlib import Path

import jax

from cnnjax.cache import cache_dir

KEPT_FROM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user's own, so that the next run starts at once.

    Those that compile in less than 0.3 s are not kept, unless JAX's own environment variable says otherwise.
    """
    folder = cache_dir("compiled")
    remove_broken_programs(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if KEPT_FROM not in os.environ:
        jax.config.update(KEPT_FROM.lower(), 0.3)


def remove_broken_programs(folder: Path) -> None:
    """Deletes compiled programs that were written in part: by a process that was killed, or on a full disk.

    JAX neither writes them in one piece nor replaces them, so each later run would warn and compile again. Each file is
    looked at once: those that are older than the last look were whole then.
    """
    mark = folder / ".checked"
    with contextlib.suppress(OSError):
        before = mark.stat().st_mtime if mark.exists() else 0.0
        now = time.time()
        for path in folder.glob("*-cache"):
            if path.stat().st_mtime >= before - 60 and not _whole(path.read_bytes()):
                path.unlink(missing_ok=True)
        mark.touch()
        os.utime(mark, (now, now))


def _whole(data: bytes) -> bool:
    if not data.startswith(b"\x78"):  # not compressed by zlib, whose stream ends with a checksum
        return bool(data)
    try:
        return bool(zlib.decompress(data))
    except zlib.error:
        return False

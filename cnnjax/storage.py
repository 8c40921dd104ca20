"""Files that several processes share: written whole or not at all, and locked by one at a time."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when the context is left: readers see the old one or the new, never a half.

    Raises:
      OSError: it cannot be written; the old one stays, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[TextIO]:
    """Holds the lock of a file, which the system takes back when its holder dies, however it dies; yields the file.

    Raises:
      BlockingIOError: another process holds it, and `wait` is false.
      OSError: the file cannot be written to.
    """
    with path.open("a+") as file:  # not inherited by other programs, so that no child can keep it
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file

"""One writer for a run directory: a lock that the kernel takes back when its holder dies, however it dies."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.storage import locked

FILE = ".lock"


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds the lock of a run directory.

    Raises:
      UserError: another process holds it, or the directory cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(locked(workdir / FILE, wait=False))
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by {holder(workdir)}. Wait for it, or give another --workdir."
            ) from None
        except OSError as error:
            raise UserError(f"--workdir={workdir} cannot be written to: {error.strerror}. Give another.") from None
        file.truncate(0)
        with contextlib.suppress(OSError):  # on a full disk nobody reads who holds it
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def holder(workdir: Path) -> str:
    """Who holds a run directory, or held it last."""
    try:
        return (workdir / FILE).read_text().strip() or "another process"
    except OSError:
        return "nobody"

"""Reading processes that neither outlive the run nor speak for themselves. Workers import this: keep it light."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOWEST_PRIORITY = 19


@contextlib.contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Processes (and threads) that are started inside never see SIGINT or SIGTERM.

    A terminal sends Ctrl-C to all of them; it is for the training process to say when they end. What comes for this
    thread in the meantime is delivered afterwards.
    """
    multiprocessing.resource_tracker.ensure_running()  # on its first start it unblocks these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_) -> None:
    """Called in a worker: it exits as soon as the process that started it is gone, however that ended."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, name="end_with_parent", daemon=True).start()


def yields_to_computation() -> None:
    """The calling thread takes only what the computing threads leave of the cores (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)

"""Reading processes and threads that neither outlive the run, nor speak for themselves, nor take the cores from it.

Workers import this: keep it light.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GIL_SECONDS = 1e-4  # Python's own 5e-3 is as long as a small network's step


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


class Yielding(NamedTuple):
    """The same function, for threads and processes that run beside a computation on the CPU (Linux; elsewhere no change).

    They take only what the computation leaves of the cores, and give them back at once. A low priority (nice) is not
    enough: a thread that it lets in keeps its core for a time slice, and all threads of a kernel wait for the slowest.
    """

    function: Callable

    def __call__(self, *arguments) -> Any:
        yield_to_computation()
        return self.function(*arguments)


def yield_to_computation() -> None:
    """The calling thread runs only where nothing else would, from now on (it cannot go back)."""
    if sys.platform == "linux":
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


@contextlib.contextmanager
def quick_turns() -> Iterator[None]:
    """Python code that runs in another thread gives way within 0.1 ms when this thread has the next step to start."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(GIL_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

"""SIGTERM and Ctrl-C: the first asks a run to stop where nothing is lost, the second stops it at once."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
OF_A_TRIAL, ECHO_SECONDS = "CNNJAX_TRIAL", 30.0  # a cluster sends a signal to all processes, and a sweep's hands it on


class Interruption:
    """Whether, and by which signal, a run was asked to stop."""

    def __init__(self):
        self.by: str | None = None


@contextlib.contextmanager
def watched(leave_at_once: Callable[[int], None] = os._exit) -> Iterator[Interruption]:
    """While inside, the first signal is only noted, for the loop to see; outside the main thread nothing changes.

    A trial of a sweep gets one signal several times: there, what comes within ECHO_SECONDS of the first is taken for the
    same, also after this is left, and nothing is heard any more while Python ends. `leave_at_once(exit code)` is what the
    second one calls: no thread, worker or file is waited for.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    first_at, is_trial = 0.0, OF_A_TRIAL in os.environ

    def note(number, frame):
        nonlocal first_at
        if interruption.by and is_trial and time.monotonic() - first_at < ECHO_SECONDS:
            return  # the first one again
        if interruption.by:
            os.write(2, b"\n")
            leave_at_once(128 + number)
        interruption.by, first_at = signal.Signals(number).name, time.monotonic()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\ncnnjax: finishing this step and saving; once more to leave at once.\n")

    sys.stderr.flush()
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interruption
    finally:
        if interruption.by and is_trial:  # the handlers stay: an echo may come while it ends
            atexit.register(_ignore)
        else:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ignore() -> None:
    """Python's own handlers are gone before Python has ended; what is ignored stays so."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

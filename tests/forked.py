"""Processes that run the command line and need not import anything first: one that has done so forks them.

`Forked(arguments, env)` is `subprocess.Popen` of `python -m tests.undrawn *arguments`, but begins a second sooner. Tests
signal it, kill it, read what it prints and take its exit code as of any other process, and it ends as Python ends.
All forks hash strings alike: give one another PYTHONHASHSEED, which starts it anew, where that could hide a fault.

This module as a program is the process that forks, one for each worker of pytest. For each run it forks a keeper, which
forks the run, waits for it, and says how it ended; the run says its own number when it is ready.
"""

import atexit
import contextlib
import functools
import gc
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 60  # to import everything, and to fork
AT_ONCE = ("JAX_", "PYTHON", "COVERAGE_")  # environment variables that are looked up before a run begins
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")  # as subprocess calls their ends


class Forked(subprocess.Popen):
    """A run; one whose environment differs in variables of AT_ONCE is started as a new process."""

    def __init__(self, arguments: list[str], env: dict[str, str], **options):
        """`options` of `subprocess.Popen`: pipes, `text`, `start_new_session`. It runs in the root of the project."""
        self._keeper = None
        super().__init__([sys.executable, "-m", "tests.undrawn", *arguments], cwd=ROOT, env=env, **options)

    def _execute_child(self, args, *options):
        given = inspect.signature(super()._execute_child).bind(args, *options).arguments
        server, servers_env = _server(os.getpid())
        if servers_env != _at_once(given["env"]):
            return super()._execute_child(args, *options)
        # The run has its end of each pipe; where there is no pipe, it has what this process has.
        standard = [n if given[end] < 0 else given[end] for n, end in enumerate(("p2cread", "c2pwrite", "errwrite"))]
        request = json.dumps([args[3:], given["env"], given["start_new_session"]]).encode()
        self._keeper, theirs = socket.socketpair()
        self._keeper.settimeout(MOST_SECONDS)
        try:
            with theirs:
                socket.send_fds(server, [len(request).to_bytes(4)], [*standard, theirs.fileno()])
                server.sendall(request)
            self.pid, self._child_created = self._number(), True
        except OSError as error:
            self._keeper.close()
            _server.cache_clear()
            raise RuntimeError(
                "tests/forked.py cannot fork: see what it printed above, or for the first test"
            ) from error
        self._keeper.settimeout(None)
        self._close_pipe_fds(*map(given.get, PIPES))

    def _try_wait(self, wait_flags):
        if self._keeper is None:
            return super()._try_wait(wait_flags)
        if wait_flags == os.WNOHANG and not select.select([self._keeper], [], [], 0)[0]:
            return 0, 0
        with self._keeper:
            return self.pid, self._number()

    def _number(self) -> int:
        """What is said next: at first which process the run is, at last how it ended, as `os.waitpid` has it."""
        said = self._keeper.recv(4)
        if not said:
            raise ConnectionError("it has died")
        return int.from_bytes(said)

    def _internal_poll(self, **options):
        if self._keeper is None:
            return super()._internal_poll(**options)
        if self.returncode is None:
            ended, status = self._try_wait(os.WNOHANG)
            self._handle_exitstatus(status) if ended else None
        return self.returncode


def _at_once(environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_ONCE)}


@functools.cache
def _server(owner: int) -> tuple[socket.socket, dict[str, str]]:
    """The socket on which this process asks for runs, and the variables of AT_ONCE that these have.

    `owner` is the number of this process: a fork of it has a server of its own.
    """
    from tests import several

    env = several.environment(1)
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours, _at_once(env)


def _serve(requests: socket.socket) -> list[str]:
    """Takes requests until nobody can ask any more; returns in each run that it forks, with the arguments."""
    while True:
        size, fds, *_ = socket.recv_fds(requests, 4, 4)
        if not size:
            os._exit(0)
        request = json.loads(requests.recv(int.from_bytes(size), socket.MSG_WAITALL))
        if os.fork() == 0:
            requests.close()
            return _keep(fds, *request)
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # keepers whose run has ended
                pass


def _keep(fds: list[int], arguments: list[str], env: dict[str, str], new_session: bool) -> list[str]:
    """Forks a run, in which it returns, and reports how that ended."""
    *standard, news = fds
    if run := os.fork():
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (*range(3), *standard):  # neither the pipes of the test nor those of pytest stay open here
            os.dup2(nothing, fd)
        status = os.waitpid(run, 0)[1]
        with contextlib.suppress(BrokenPipeError):  # the test has ended before
            os.write(news, status.to_bytes(4))
        os._exit(0)
    os.setsid() if new_session else None
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(news, os.getpid().to_bytes(4))
    for fd in fds:
        os.close(fd)
    return arguments


if __name__ == "__main__":
    import numpy as np

    from cnnjax import experiment, verbs  # noqa: F401
    from cnnjax.data import digits  # noqa: F401
    from cnnjax.tasks.classification import task  # noqa: F401
    from cnnjax.training import opening, scoring  # noqa: F401
    from cnnjax.xla import without_faulty_sums

    gc.freeze()  # so that runs do not copy what they only look at
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    without_faulty_sums()  # as `import cnnjax` does
    np.random.seed()
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module("tests.undrawn", run_name="__main__", alter_sys=True)

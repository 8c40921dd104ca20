"""The process around one trial: python -m cnnjax.sweeps.trial FOLDER COMMAND ...

It holds the trial, runs the command, keeps what that prints in trial.log, and writes outcome.json when it has ended. It
survives the driver that started it. The command holds the trial too: a killed process around it lets nobody else in.
"""

import collections
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cnnjax.training.interruption import OF_A_TRIAL

HOLD, LOG, OUTCOME = ".trial", "trial.log", "outcome.json"
TAKEN = 75  # the exit code where another process has the trial
TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALS = (*TO_END, signal.SIGUSR2)
PATIENCE = 1.0  # seconds: whoever only looks whether a trial is held has it for an instant

_running: subprocess.Popen | None = None  # the command, for the handlers of signals


def hold(folder: Path):
    """The open file that stands for the trial while any process keeps it; None where another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file, end = (folder / HOLD).open("a+"), time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(0.01)


def is_held(folder: Path) -> bool:
    """Whether a process has the trial at this moment."""
    try:
        with (folder / HOLD).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(folder: Path) -> dict[str, int]:
    """What the process that has, or had, the trial wrote of itself: `pid`, and `slot`, its place of those that run at a time."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / HOLD).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def ask_to_stop(folder: Path) -> None:
    """Has the trial save and end, where its process is still there."""
    pid = holder(folder).get("pid", 0)
    with contextlib.suppress(OSError):  # it is gone; and its number may be another's by now
        if b"cnnjax.sweeps.trial" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """How the trial's last process ended: exit_code, error, seconds; None where it has not, or could not say so."""
    with contextlib.suppress(OSError, ValueError):
        outcome = json.loads((folder / OUTCOME).read_text())
        return outcome if isinstance(outcome, dict) and isinstance(outcome.get("exit_code"), int) else None
    return None


def stop_and_wait() -> None:
    """Has the command that `run` runs save and end. To be called in a handler of a signal: it takes no lock."""
    if _running is not None:
        _running.send_signal(signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, _running.pid, os.WEXITED | os.WNOWAIT)


def run(folder: Path, command: list[str], signals: tuple[int, ...] = SIGNALS) -> int:
    """Runs the command to its end; of these signals, each that comes is handed on to it as SIGTERM, at which training saves.

    Returns its exit code (128 + n: signal n).
    """
    global _running
    file = hold(folder)
    if file is None:
        return TAKEN
    with file:
        file.truncate(0)
        with contextlib.suppress(OSError):
            file.write(json.dumps(dict(pid=os.getpid(), slot=int(os.environ.get("CNNJAX_SLOT", "0")))))
            file.flush()
        (folder / OUTCOME).unlink(missing_ok=True)
        started, tail = time.time(), collections.deque(maxlen=60)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {OF_A_TRIAL: "1"},
            pass_fds=(file.fileno(),),
            start_new_session=True,
            # Slurm sends its signal to all processes of a job: the command gets it from here, as SIGTERM.
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        _running = child
        for number in signals:
            signal.signal(number, lambda *_: child.send_signal(signal.SIGTERM))

        def end(code: int, error: str) -> int:
            outcome = dict(exit_code=code, error=error)
            outcome |= dict(seconds=round(time.time() - started, 1), time=round(time.time(), 1))
            with contextlib.suppress(OSError):
                temporary = folder / f"{OUTCOME}.new"
                temporary.write_text(json.dumps(outcome) + "\n")
                temporary.replace(folder / OUTCOME)
            return code

        try:
            _follow(child, folder, tail)
        except Exception as error:  # raised by the handler of a signal: submitit's, where it may not requeue again
            end(1, f"{type(error).__name__}: {error}")
            raise
        code = child.wait()
        return end(code if code >= 0 else 128 - code, error_of(code, list(tail)))


def _follow(child: subprocess.Popen, folder: Path, tail: collections.deque) -> None:
    """Writes to the log what the command prints, and keeps the last lines."""
    with contextlib.suppress(OSError), (folder / LOG).open("a", errors="replace") as log:
        for line in child.stdout:
            tail.append(line.rstrip("\n"))
            with contextlib.suppress(OSError):  # a full disk: what the run does about it is its own affair
                log.write(line)
                log.flush()
    for line in child.stdout:  # where the log could not even be opened
        tail.append(line.rstrip("\n"))


def error_of(code: int, tail: list[str]) -> str:
    """In a line: why a command ended so."""
    if code == 0:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = [n for n, line in enumerate(tail) if line.startswith("cnnjax: ")]
    if said:
        lines = [line.strip() for line in tail[said[-1] :][:2] if line.strip()]
        return " ".join(lines).removeprefix("cnnjax: ")
    last = next((line.strip() for line in reversed(tail) if line.strip()), "it printed nothing")
    return f"exit code {code}: {last}"[:300]


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))

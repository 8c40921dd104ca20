"""Several processes that are one run, on one machine or many: how they find each other, agree, and end together.

JAX's own runtime joins them (`jax.distributed`). Process 0 is the main one: it alone writes what a person reads, and
what it finds in the run directory holds for all (`by_main`). A process that fails says why to all the others, which then
end too. One that dies without a word is missed by the runtime, which ends the others. As the runtime, Gloo and NCCL may
abort in the middle of their own code, a witness of each process then says what has happened, unless it is killed too.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # its store of keys and values has no public name; Orbax takes it from here too

from cnnjax.errors import Interrupted, RunError, UserError

JOIN_SECONDS = 300  # in which all processes must have come
MISSED_SECONDS = 30  # without a sign of life, after which the runtime takes a process for dead
GRACE_SECONDS = 2.0  # for a process to end by itself, once another has failed
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "peer", "onnection")  # in what JAX says when another process has died
END = "cnnjax/end"  # the key under which the first process that fails says why
FOREVER = 10 * 365 * 86_400_000  # ms
WITNESS = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read(1):
    print(
        f"cnnjax: process {sys.argv[1]} of this run has died: it was killed, or was aborted in code beneath, as happens "
        "where another process has died. Start all of them again: the run goes on from its newest checkpoint.",
        file=sys.stderr, flush=True,
    )
"""

_witness: subprocess.Popen | None = None
_numbers = itertools.count()  # of what the main process has told; every process counts alike


class Place(NamedTuple):
    """Which process of how many this one is, and where process 0 waits for the others; None: JAX finds out."""

    coordinator: str | None
    count: int | None
    index: int | None


def place_of(coordinator: str | None, processes: str | None, process: str | None) -> Place | None:
    """What the flags say, or else a step of a Slurm job that has several tasks; None: this process is alone.

    Raises:
      UserError: some of the flags are missing, or are no such numbers.
    """
    if coordinator == "auto" and not (processes or process):
        return Place(None, None, None)
    given = dict(coordinator=coordinator, processes=processes, process=process)
    if any(given.values()):
        missing = [f"--{name}" for name, value in given.items() if not value]
        if missing:
            raise UserError(
                f"Several processes need --coordinator=HOST:PORT, --processes=N and --process=I: {', '.join(missing)} "
                "is missing. (In a Slurm job none of them is needed.)"
            )
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise UserError(f"--coordinator must be HOST:PORT of process 0, or auto, not {coordinator!r}.")
        for name in ("processes", "process"):
            if not (given[name].isascii() and given[name].isdigit()):
                raise UserError(f"--{name} must be a whole number, not {given[name]!r}.")
        if int(process) >= int(processes):
            raise UserError(f"--process counts from 0: with --processes={processes} the last is {int(processes) - 1}.")
        return Place(coordinator, int(processes), int(process)) if int(processes) > 1 else None
    tasks, index = os.environ.get("SLURM_STEP_NUM_TASKS", "1"), os.environ.get("SLURM_PROCID", "")
    if tasks.isdigit() and int(tasks) > 1 and index.isdigit():
        return Place(None, int(tasks), int(index))
    return None


@contextlib.contextmanager
def together(place: Place | None) -> Iterator[None]:
    """Inside, this process is one of a run's: when one fails, all end. With None it is alone, and nothing changes.

    Raises:
      UserError: the others do not come.
    """
    if place is None:
        yield
        return
    _join(place)
    with contextlib.suppress(OSError):  # there is no room for a process more: it can do without
        _call_witness()
    threading.Thread(target=_listen, daemon=True).start()
    try:
        yield
    except Interrupted:
        _part()
        raise
    except (UserError, RunError, OSError, MemoryError) as error:
        _tell(2 if isinstance(error, UserError) else 1, str(error) or type(error).__name__)
        raise
    except KeyboardInterrupt:
        _tell(130, "interrupted")
        raise
    except BaseException as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, jax.errors.JaxRuntimeError) and any(word in reason for word in LOST):
            time.sleep(2 * GRACE_SECONDS)  # if another process has failed and said why, this one ends here
            error = RunError(
                f"Another process of this run has died, or cannot be reached ({reason}). Start all of them again: the "
                "run goes on from its newest checkpoint."
            )
            _tell(1, str(error))
            raise error from None
        traceback.print_exc()  # a fault of ours: with all that is known of it
        _tell(1, f"{type(error).__name__}: {reason}")
        leave(1)
    else:
        _part()
    finally:
        _dismiss_witness()


def count() -> int:
    """How many processes this run has."""
    return distributed.global_state.num_processes


def index() -> int:
    """Which of them this one is, from 0. (JAX's own answer needs its devices, which may be what fails.)"""
    return distributed.global_state.process_id


def is_main() -> bool:
    """Whether this is process 0, which writes; a process that is alone is."""
    return index() == 0


def by_main(function: Callable[[], Any]) -> Any:
    """What the function gives in process 0, in every process: a value that JSON can hold.

    All processes call it in the same order. Where it raises, all end as `together` says.
    """
    if count() == 1:
        return function()
    key = f"cnnjax/told/{next(_numbers)}"
    if is_main():
        value = function()
        _store().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_store().blocking_key_value_get(key, FOREVER))


def require_same(what: str, value: str) -> None:
    """Raises UserError where a process has another value than process 0."""
    if by_main(lambda: value) != value:
        raise UserError(f"This process has found other {what} than process 0: give all of them the same.")


def leave(code: int) -> int:
    """To be called last, with the exit code: among several processes one that failed leaves at once.

    What the others owe it (a part of an array, of a checkpoint) may never come.
    """
    if code and distributed.global_state.client is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        leave_at_once(code)
    return code


def leave_at_once(code: int) -> None:
    """No thread, worker or file is waited for."""
    try:
        _dismiss_witness()
    finally:
        os._exit(code)


def _store():
    return distributed.global_state.client


def _join(place: Place) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    if place.index == 0 or place.coordinator is None:
        where = f" at {place.coordinator}" if place.coordinator else ""
        print(f"cnnjax: waiting for {place.count or 'all'} processes{where}.", file=sys.stderr, flush=True)
    job, step = (os.environ.get(f"SLURM_{name}_ID", "0") for name in ("JOB", "STEP"))
    if place.coordinator is None and job.isdigit() and step.isdigit():  # JAX tells jobs apart, not the steps of one
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(61440 + (31 * int(job) + int(step)) % 4096))
    if place.index and place.coordinator:
        _require_answer(place.coordinator)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            local_device_ids=_own_devices(place),
            cluster_detection_method="deactivate" if place.coordinator else None,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=MISSED_SECONDS,
            shutdown_timeout_seconds=MISSED_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"The processes of this run did not come together: {reason}") from None


def _own_devices(place: Place) -> list[int] | None:
    """For JAX: [] means all devices that this process sees, None that JAX may choose: of a Slurm node one a task.

    Its choice is wrong where a node has a single task, or where Slurm shows each task its own devices only.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")[0].split("(")[0]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [] if place.coordinator or tasks == "1" or (seen[0] and len(seen) < int(tasks)) else None


def _require_answer(coordinator: str) -> None:
    """Waits until process 0 is there. Raises UserError where it does not come (JAX itself would abort)."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"Process 0 cannot be reached at --coordinator={coordinator} ({error.strerror or error}). Was it "
                    "started, on that machine?"
                ) from None
            time.sleep(0.2)


def _call_witness() -> None:
    """Starts a small process that sees this one's end, and says so in a line unless it was dismissed before."""
    global _witness
    command = [sys.executable, "-I", "-S", "-c", WITNESS, str(index())]
    _witness = subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _dismiss_witness() -> None:
    """This process ends, and has said why."""
    global _witness
    witness, _witness = _witness, None
    if witness is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # where it was killed, or is stopped
            witness.stdin.write(b".")
            witness.stdin.close()
            witness.wait(timeout=1)


def _tell(code: int, text: str) -> None:
    """Says to all others why this process ends; if one has said the same already, this one ends without a word."""
    said, told = dict(process=index(), host=socket.gethostname(), code=code, text=text), False
    try:
        _store().key_value_set(END, json.dumps(said))
    except jax.errors.JaxRuntimeError:  # another was first
        with contextlib.suppress(Exception):
            told = json.loads(_store().key_value_try_get(END))["text"] == text
    if is_main():
        time.sleep(2 * GRACE_SECONDS)  # it takes the store with it
    if told:
        leave(code)


def _part() -> None:
    """All have come to their end."""
    _store().wait_at_barrier("cnnjax/part", FOREVER)
    if is_main():
        _store().key_value_set(END, "{}")
    jax.distributed.shutdown()


def _listen() -> None:
    """In a thread: waits until a process says why it fails, gives this one a moment, and ends it."""
    try:
        said = json.loads(_store().blocking_key_value_get(END, FOREVER))
    except Exception as error:
        said = dict(process=0, host="its host", code=1, text=f"it cannot be reached any more ({str(error)[:80]})")
    if not said or said["process"] == index():
        return
    time.sleep(GRACE_SECONDS)
    first = f"cnnjax: process {said['process']} on {said['host']} has ended this run: "
    os.write(2, f"{first}{said['text']}\n".encode())
    leave_at_once(said["code"])

"""Real processes that are one run, each with some virtual CPU devices, for the tests of several hosts."""

import importlib.metadata
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests import forked

ROOT = forked.ROOT
UNDRAWN = (sys.executable, "-m", "tests.undrawn")  # run.py, without pictures


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def xla_flags(devices: int) -> str:
    """Of a process with so many virtual devices. Most programs of a test run a few times only: they are compiled soon, by
    half of what XLA does for speed, unless all tests are run."""
    soon = "--xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag that they no longer know
        soon += " --xla_cpu_use_fusion_emitters=false"
    return f"--xla_force_host_platform_device_count={devices} {'' if os.environ.get('CNNJAX_TEST_ALL') else soon}"


def environment(devices: int, **more: str) -> dict[str, str]:
    """Of a process that a test starts."""
    # Another one may be writing the program that it reads; JAX then compiles it, and says so.
    quiet = dict(PYTHONUNBUFFERED="1", PYTHONWARNINGS="ignore:Error reading persistent compilation cache entry")
    return os.environ | dict(XLA_FLAGS=xla_flags(devices)) | quiet | more


def start(workdir: Path, *flags: str, count: int = 2, devices: int = 2, own: dict[int, tuple[str, ...]] | None = None, unlike: dict[int, dict[str, str]] | None = None):  # fmt: skip
    """Starts the processes of a run; `own` flags, and `unlike` environments, are those of one process alone.

    Returns them, process 0 first.
    """
    coordinator = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        several = [f"--coordinator={coordinator}", f"--processes={count}", f"--process={index}"] if count > 1 else []
        arguments = ["train", f"--workdir={workdir}", *flags, *several, *(own or {}).get(index, ())]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(forked.Forked(arguments, environment(devices, **(unlike or {}).get(index, {})), **pipes))
    return started


def ended(processes, seconds: float = 240) -> list[tuple[int, str]]:
    """(exit code, all that it printed) of each."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs)]

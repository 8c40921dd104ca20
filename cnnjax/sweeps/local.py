"""Trials as processes of this machine, so many at a time; each has a GPU, or a share of the cores, of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cnnjax.sweeps import trial as process
from cnnjax.sweeps.ablation import Trial

HERE = Path(__file__).parents[2]  # where `import cnnjax` finds this package


def train_command(trial: Trial) -> list[str]:
    """What trains a trial; from the directory that the sweep was given in."""
    return [sys.executable, "-m", "cnnjax", "train", *trial.arguments, f"--workdir={trial.folder}"]


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, without starting JAX."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
        return [str(n) for n, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
    return []


class Local:
    """Runs at most `parallel` trials at a time (0: one for each GPU, or one)."""

    def __init__(self, parallel: int = 0):
        self._gpus = gpus()
        self.parallel = parallel or max(1, len(self._gpus))
        self._started: dict[Path, subprocess.Popen] = {}
        self._slots: dict[Path, int] = {}

    def __str__(self) -> str:
        return f"{self.parallel} at a time"

    def note(self, trial: Trial) -> str:
        """Why a trial waits: nothing is to be said of one that has just been started."""
        return ""

    def holds(self, trial: Trial) -> bool:
        """Whether a process of ours is at the trial, also before it has taken hold of it."""
        return trial.folder in self._started and self._started[trial.folder].poll() is None

    def launch(self, waiting: list[Trial], busy: list[Trial]) -> list[Trial]:
        """Starts as many of the waiting ones as there is room for beside the busy ones, and returns them."""
        taken = {self._slots.get(trial.folder, process.holder(trial.folder).get("slot")) for trial in busy}
        free = [slot for slot in range(self.parallel) if slot not in taken]
        chosen = waiting[: max(0, min(self.parallel - len(busy), len(free)))]
        for trial, slot in zip(chosen, free):
            self._start(trial, slot)
        return chosen

    def stop(self, busy: list[Trial]) -> str:
        """Asks the busy trials to save and stop, and waits for them. Returns what is to be said of it."""
        for trial in busy:
            while self.holds(trial) and not process.is_held(trial.folder):
                time.sleep(0.05)  # it has not come so far that it could be asked
            process.ask_to_stop(trial.folder)
        while any(process.is_held(trial.folder) for trial in busy):
            time.sleep(0.1)
        return "The trials have saved. " if busy else ""

    def _start(self, trial: Trial, slot: int) -> None:
        environment = os.environ | dict(CNNJAX_SLOT=str(slot), PYTHONUNBUFFERED="1")
        path = os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), path]))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        trial.folder.mkdir(parents=True, exist_ok=True)
        around = [sys.executable, "-m", "cnnjax.sweeps.trial", str(trial.folder)]
        self._slots[trial.folder] = slot
        self._started[trial.folder] = subprocess.Popen(
            [*self._share(slot), *around, *train_command(trial)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver, which stops its trials in order
        )

    def _share(self, slot: int) -> list[str]:
        """Confines a trial to its share of the cores, where each can have at least one: threads that wait for each other
        must not wait for those of another trial."""
        if self._gpus or self.parallel == 1 or not hasattr(os, "sched_getaffinity"):
            return []
        cores = sorted(os.sched_getaffinity(0))
        each = len(cores) // self.parallel
        mine = ",".join(map(str, cores[slot * each : (slot + 1) * each]))
        return ["taskset", "-c", mine] if each and shutil.which("taskset") else []

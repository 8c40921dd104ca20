"""Trials as one Slurm array, submitted by submitit; a trial that meets its time limit saves, is requeued, and goes on."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.run_directory import records
from cnnjax.sweeps import trial as process
from cnnjax.sweeps.ablation import Trial
from cnnjax.sweeps.local import HERE, train_command

FOLDER = "slurm"  # of the sweep's: what each array was made of, and submitit's files
ASK_SECONDS = 3.0  # Slurm is asked no more often than this
APPEAR_SECONDS = 60.0  # until what another node wrote is seen here: so long NFS may keep what it knows of a folder
SIGNAL_SECONDS = 90  # before the time limit: enough to finish a step and save


class RunTrial:
    """What an element of the array calls, through submitit."""

    def __call__(self, folder: Path, command: list[str]) -> int:
        return process.run(folder, command, signals=process.TO_END)  # Slurm's own, USR2, is left to submitit

    def checkpoint(self, folder: Path, command: list[str]):
        """Called by submitit's handler of USR2: the trial saves and ends; the same job is to be queued again."""
        from submitit.helpers import DelayedSubmission

        process.stop_and_wait()
        return DelayedSubmission(self, folder, command)


class Slurm:
    """Hands all trials to Slurm at once; which are in its queue is what `squeue` says, for this driver as for the next.

    Args:
      folder: the sweep's, on a disk that all nodes see.
      parallel: how many run at a time, at most (0: as many as Slurm lets).
      partition, minutes, gpus, cpus: of each trial; '' and 0: what the cluster does by itself.
      requeues: how often a trial may meet its time limit and go on.

    Raises:
      UserError: submitit is not installed, there is no Slurm, or no such partition.
    """

    def __init__(
        self, folder: Path, parallel: int = 0, partition: str = "", minutes: int = 60, gpus: int = 0, cpus: int = 0,
        requeues: int = 100,
    ):  # fmt: skip
        try:
            import submitit
        except ImportError:
            raise UserError(
                "--launcher=slurm needs submitit: pip install 'cnnjax[slurm]', or pip install submitit."
            ) from None
        for program in ("sbatch", "squeue", "sinfo", "srun"):
            if shutil.which(program) is None:
                raise UserError(
                    f"--launcher=slurm needs Slurm's {program}, which is not here: run this on a login node."
                )
        known = _asked("sinfo", "--noheader", "--format=%R").split()
        if partition and partition not in known:
            raise UserError(f"There is no partition {partition!r}: Slurm has {', '.join(sorted(set(known)))}.")
        self._folder, self.parallel = folder / FOLDER, parallel
        self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=requeues)
        given = dict(partition=partition, gpus_per_node=gpus, cpus_per_task=cpus)
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        self._parameters = {name: value for name, value in given.items() if value} | dict(
            time=minutes,
            signal_delay_s=min(SIGNAL_SECONDS, 30 * minutes),
            setup=[f"export PYTHONPATH={shlex.quote(path)} PYTHONUNBUFFERED=1"],
            stderr_to_stdout=True,
            additional_parameters=dict(requeue=True),
        )
        self._queued: dict[Path, str] = {}
        self._left: dict[Path, float] = {}  # when a trial was no longer in the queue
        self._earlier: dict[Path, dict | None] = {}  # how a trial had ended before it was in the queue
        self._asked_at = 0.0

    def __str__(self) -> str:
        return "by Slurm" + (f", {self.parallel} at a time" if self.parallel else "")

    def holds(self, trial: Trial) -> bool:
        """Whether the trial is in Slurm's queue: waiting, running, or ending; or has left it and how is not to be seen yet.

        Of a trial that ended without a word (it was cancelled, or lost with its node) that is so for APPEAR_SECONDS.
        """
        if time.monotonic() - self._asked_at > ASK_SECONDS:
            self._look()
        if trial.folder in self._queued:
            return True
        if time.monotonic() - self._left.get(trial.folder, float("-inf")) > APPEAR_SECONDS:
            return False
        outcome = process.outcome_of(trial.folder)
        failed = outcome is not None and outcome["exit_code"] != 0 and outcome != self._earlier.get(trial.folder)
        return not failed  # of one that is done, the summary may come to be seen after the outcome

    def note(self, trial: Trial) -> str:
        """Why a trial waits, as Slurm has it."""
        return self._queued.get(trial.folder, "has left Slurm's queue; how it ended is not to be seen here yet")

    def launch(self, waiting: list[Trial], busy: list[Trial]) -> list[Trial]:
        """Submits all that wait as one array, and returns them.

        Raises:
          UserError: Slurm refuses, as it does it.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not waiting:
            return []
        # Written before, and found again by the name: a driver may be killed at the very instant of the submission.
        name = f"cnnjax-{uuid.uuid4().hex[:12]}"
        records.write_json(self._folder / f"{name}.json", [str(trial.folder) for trial in waiting])
        parallel = dict(array_parallelism=self.parallel or len(waiting))
        self._executor.update_parameters(**self._parameters, **parallel, job_name=name)
        try:
            self._executor.map_array(RunTrial(), [t.folder for t in waiting], [train_command(t) for t in waiting])
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            said = re.findall(r"error: (.+)", str(error)) or [str(error).strip().splitlines()[-1]]
            raise UserError(f"Slurm did not take the trials: {said[-1].strip()}") from None
        self._remember(trial.folder for trial in waiting)
        self._queued |= {trial.folder: "PENDING" for trial in waiting}
        self._asked_at = time.monotonic()
        return waiting

    def stop(self, busy: list[Trial]) -> str:
        """Leaves the trials to Slurm; says how to end them."""
        busy = [trial for trial in busy if trial.folder in self._queued or process.is_held(trial.folder)]
        if not busy:
            return ""
        names = ",".join(sorted(path.stem for path in self._folder.glob("cnnjax-*.json")))
        return f"{len(busy)} trials stay in Slurm's queue (scancel --name={names} ends them, and each saves). "

    def _look(self) -> None:
        """Asks Slurm for its queue, and keeps since when trials have left it."""
        now, self._asked_at = self._queue(), time.monotonic()
        self._left |= dict.fromkeys(self._queued.keys() - now.keys(), self._asked_at)
        self._remember(now.keys() - self._queued.keys())
        self._queued = now

    def _remember(self, entering: Iterable[Path]) -> None:
        self._earlier |= {folder: process.outcome_of(folder) for folder in entering}

    def _queue(self) -> dict[Path, str]:
        """{a trial's folder: what Slurm says of it}; as before, where Slurm does not answer."""
        try:
            found = _asked("squeue", "--noheader", "--array", "--me", "--format=%j|%K|%T|%r")
        except UserError:
            if not self._asked_at:  # what is in the queue must be known, or it would be submitted again
                raise
            return self._queued
        queued = {}
        for line in found.splitlines():
            name, index, state, reason = line.strip().split("|", 3)
            try:
                folders = json.loads((self._folder / f"{name}.json").read_text())
            except (OSError, ValueError):
                continue  # of another sweep
            place = int(index) if index.isdigit() else 0
            if place < len(folders):
                queued[Path(folders[place])] = state if reason == "None" else f"{state}, {reason}"
        return queued


def _asked(*command: str) -> str:
    """What a program of Slurm's prints. Raises UserError where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise UserError(f"Slurm does not answer: {said[-1] if said else error}") from None
    return done.stdout

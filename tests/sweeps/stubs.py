"""`run.py sweep ...` whose trials are `stub_trial.py`: in this process, or as one that can be killed."""

import os
import subprocess
import sys
from pathlib import Path

from cnnjax import cli
from cnnjax.sweeps import local, slurm

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_trial.py")


def train_command(trial) -> list[str]:
    return [sys.executable, str(STUB), "train", *trial.arguments, f"--workdir={trial.folder}"]


def main(arguments: list[str]) -> int:
    local.train_command = slurm.train_command = train_command
    return cli.main(["run.py", "sweep", *arguments])


def start(arguments: list[str]) -> subprocess.Popen:
    """The same as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweeps.stubs", *arguments],
        cwd=ROOT, env=os.environ | dict(PYTHONUNBUFFERED="1"), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

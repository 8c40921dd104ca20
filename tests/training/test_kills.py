"""kill -9 in each phase of a run, at random instants. By hand of more runs: experiments/results/kills.csv."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kills(count: int, seed: int, *flags: str) -> str:
    command = [sys.executable, "experiments/measurements/kills.py", f"--kills={count}", f"--seed={seed}", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | dict(XLA_FLAGS="", PYTHONPATH="."), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # test_processes kills a run of two in every run of the suite
def test_a_run_killed_in_the_critical_phases_ends_with_the_same_bits():
    out = kills(2, 2, "--phase=saving", "--phase=evaluation")
    assert "2 of 2 killed runs ended with the same bits" in out
    for phase in ("saving", "evaluation"):
        assert f"{phase:12} 1 of 1" in out


@pytest.mark.slow
def test_runs_killed_in_every_phase():
    assert "16 of 16 killed runs ended with the same bits" in kills(16, seed=3)

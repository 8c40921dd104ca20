"""A sweep driven as a user drives it: drivers killed at random instants, over trials that stand for real training runs.

One sweep of real runs stands among the README's commands (tests/test_readme.py); a full disk needs real ones too.
"""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjax.sweeps import trial
from tests.sweeps import stubs

ROOT = Path(__file__).parents[2]
SWEEP = """
from cnnjax.sweeps.ablation import Sweep, values

def measure(workdir):
    return {{"pictures": len(list(workdir.glob("*.png")))}}

def get_sweep():
    return Sweep(
        base="experiments/digits.py", hypothesis="Small ones do.", seeds={seeds}, measure=measure,
        common={{"model.channels": (4, 8), "model.blocks": 1, "steps": {steps}, "log_every": 5, "evaluate_every": 1.0}},
        factors=dict(rate=values("optimizer.learning_rate", {rates})),
    )
"""


@pytest.fixture
def sweep(tmp_path):
    """The arguments of `run.py sweep`."""

    def write(seeds=(0,), rates="1e-3, 2e-3", steps=15):
        file = tmp_path / "sweep.py"
        file.write_text(SWEEP.format(seeds=seeds, rates=rates, steps=steps))
        return [f"--config={file}", f"--workdir={tmp_path / 'out'}", "--parallel=2"]

    return write


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def starts(folder):
    return json.loads((folder / "environment.json").read_text())["starts"]


def test_what_failed_stands_in_the_table_and_only_it_runs_again(sweep, drive, tmp_path):
    command, out = sweep(rates="1e-3, 1e30"), tmp_path / "out"
    assert "is not finite" in drive(command, code=1)
    table = (out / "results.md").read_text()
    assert "| base | 1 of 1 |" in table and "| rate=1e+30 | 0 of 1 |" in table
    assert "rate=1e+30 seed 0: failed. The" in table and "is not finite" in table
    assert (out / "results.png").stat().st_size > 5000
    header, first, second = (out / "results.csv").read_text().splitlines()
    assert header.startswith("variant,seed,rate,state,accuracy,parameters,macs,field_of_view,images_per_second")
    assert ",done," in first and ",failed," in second
    before = (out / "base/seed0/summary.json").stat().st_mtime_ns
    drive(command, code=1)
    assert (out / "base/seed0/summary.json").stat().st_mtime_ns == before
    assert (
        len(starts(out / "base/seed0")),
        len(starts(out / "rate=1e_30/seed0" if (out / "rate=1e_30").exists() else out / "rate=1e+30/seed0")),
    ) == (1, 2)
    shown = drive([*command, "--status"])
    assert "base seed 0" in shown and "done" in shown and "failed" in shown
    assert drive([*command, "--table"]).strip() == table.strip()
    # Another sweep in this folder, and a sweep in the folder of a run, are refused.
    other = sweep(rates="3e-3, 1e30")
    refused = "holds another sweep: of base seed 0, config.optimizer.learning_rate was 0.001, now 0.003"
    assert refused in drive(other, code=2)
    assert "holds a single run" in drive([command[0], f"--workdir={out / 'base/seed0'}"], code=2)


@pytest.mark.slow  # training on a full disk: tests/training/test_damage.py
def test_a_trial_whose_disk_is_full_fails_alone_and_is_run_again(sweep, tmp_path):
    command, out = [sys.executable, "run.py", "sweep", *sweep()], tmp_path / "out"
    driver = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = out / "base" / "seed0"
    until(lambda: (folder / "config.json").exists())  # the last of what is written before the first step
    around = trial.holder(folder)["pid"]
    trains = int(Path(f"/proc/{around}/task/{around}/children").read_text().split()[0])
    resource.prlimit(trains, resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
    said = "".join(driver.communicate(timeout=120))
    assert driver.returncode == 1 and "1 of 2 trials failed: base seed 0: The last checkpoint" in said, said
    other = (out / "rate=0.002/seed0/summary.json").stat().st_mtime_ns
    again = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert again.returncode == 0 and "| base | 1 of 1 |" in again.stdout, again.stderr
    assert (out / "rate=0.002/seed0/summary.json").stat().st_mtime_ns == other


def test_a_driver_that_is_asked_to_stop_has_its_trials_save(sweep, drive, tmp_path):
    command = sweep(rates="1e-3, 2e-3", steps=200000)
    driver, folders = stubs.start(command), [tmp_path / "out" / name / "seed0" for name in ("base", "rate=0.002")]
    until(lambda: all((folder / "metrics.jsonl").exists() for folder in folders))
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 3 and "The same command goes on" in err, out + err
    for folder in folders:
        assert [p.name for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    assert drive([*command, "--status"]).count("stopped by SIGTERM") == 2


def kills(sweep, drive, out, count, seed):
    """Kills the driver so many times at random instants, then lets it end; no finished trial may be run twice."""
    chance = random.Random(seed)
    finished: dict[Path, int] = {}
    for _ in range(count):
        driver = stubs.start(sweep)
        driver.stdout.readline()  # of a trial: from here on it starts them
        time.sleep(chance.uniform(0, 2))
        driver.kill()
        driver.communicate()
        for summary in out.glob("*/*/summary.json"):
            finished.setdefault(summary, summary.stat().st_mtime_ns)
    text = drive(sweep)
    for summary, written in finished.items():
        assert summary.stat().st_mtime_ns == written
    for folder in out.glob("*/seed*"):
        assert len(starts(folder)) == 1, f"{folder} was started twice: its process outlives the driver"
    return text


def test_a_killed_driver_loses_nothing(sweep, drive, tmp_path):
    text = kills(sweep(seeds=(0, 1), steps=400), drive, tmp_path / "out", count=2, seed=1)
    assert "| base | 2 of 2 |" in text and "| rate=0.002 | 2 of 2 |" in text


@pytest.mark.slow
def test_twenty_killed_drivers(sweep, drive, tmp_path):
    text = kills(sweep(seeds=tuple(range(8)), steps=400), drive, tmp_path / "out", count=20, seed=2)
    assert "| base | 8 of 8 |" in text and "| rate=0.002 | 8 of 8 |" in text

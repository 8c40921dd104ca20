"""Sweeps as arrays of a real Slurm, which these tests start where Debian's packages slurm-wlm and munge are installed."""

import json
import signal
import subprocess
import sys
import time
import types

import pytest

from cnnjax.errors import UserError
from cnnjax.sweeps import slurm
from cnnjax.training.logbook import read_entries
from tests import several
from tests.sweeps import cluster, stubs

needs_slurm = pytest.mark.skipif(
    not cluster.is_installed(), reason="there is no Slurm here: apt-get install slurm-wlm munge"
)
SWEEP = """
from cnnjax.sweeps.ablation import Sweep, values

def get_sweep():
    return Sweep(
        base="experiments/digits.py", hypothesis="Small ones do.", seeds=(0,),
        common={{"model.channels": (4, 8), "model.blocks": 1, "steps": {steps}, "log_every": 5, "evaluate_every": 50.0}},
        factors=dict(rate=values("optimizer.learning_rate", {rates})),
    )
"""


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What an environment needs for Slurm's programs to find this one."""
    with cluster.started(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def environment(found_by, monkeypatch):
    """Of this process, and of those that it starts."""
    for name, value in found_by.items():
        monkeypatch.setenv(name, value)
    return several.environment(1)


@pytest.fixture
def sweep(tmp_path, environment):
    """The arguments of `run.py sweep`, whose trials are stubs."""

    def write(rates="1e-3, 2e-3", steps=15):
        file = tmp_path / "sweep.py"
        file.write_text(SWEEP.format(rates=rates, steps=steps))
        return [f"--config={file}", f"--workdir={tmp_path / 'out'}", "--launcher=slurm"]

    return write


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


def starts(folder):
    return [start["step"] for start in json.loads((folder / "environment.json").read_text())["starts"]]


def queue(environment):
    return subprocess.run(["squeue", "-h", "-r"], env=environment, capture_output=True, text=True).stdout.splitlines()


@needs_slurm
def test_an_array_outlives_its_driver_and_the_next_one_adopts_it(sweep, drive, tmp_path, environment):
    command, out = sweep(rates="1e-3, 2e-3, 1e30"), tmp_path / "out"
    driver = stubs.start(command)
    until(lambda: queue(environment))  # submitted at this very instant
    driver.kill()
    driver.communicate()
    text = drive(command, code=1)
    submitted = [folder for path in out.glob("slurm/cnnjax-*.json") for folder in json.loads(path.read_text())]
    assert submitted.count(str(out / "base" / "seed0")) == 1, "a trial was submitted twice"
    assert "| base | 1 of 1 |" in text and "| rate=0.002 | 1 of 1 |" in text and "| rate=1e+30 | 0 of 1 |" in text
    assert "is not finite" in text and "1 of 3 trials failed" in text
    assert [starts(out / name / "seed0") for name in ("base", "rate=0.002")] == [[0], [0]]
    failed = starts(out / "rate=1e+30" / "seed0")  # twice, where it had failed before the second driver came
    drive(command, code=1)
    assert [starts(out / name / "seed0") for name in ("base", "rate=0.002", "rate=1e+30")] == [[0], [0], [*failed, 0]]


@needs_slurm
def test_slurms_signal_has_a_trial_save_be_requeued_and_go_on(sweep, tmp_path, environment):
    """USR2 is what sbatch --signal sends before the time limit."""
    command, folder = [*sweep("2e-3, 1e30", steps=20000), "--parallel=1"], tmp_path / "out" / "base" / "seed0"
    driver = stubs.start(command)
    until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text())
    job = next(line.split()[0] for line in queue(environment) if line.split()[0].endswith("_0"))
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)

    def requeued():
        shown = subprocess.run(["scontrol", "show", "job", job], env=environment, capture_output=True, text=True).stdout
        return "Restarts=1" in shown

    until(requeued)
    (stopped_at,) = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    assert 0 < stopped_at < 20000

    def runs_again():
        """Slurm lets what it requeued wait for two minutes; not here, once it has set that time."""
        now = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(now, env=environment, capture_output=True)
        return len(starts(folder)) == 2

    until(runs_again)
    text = "".join(driver.communicate(timeout=300))
    assert driver.returncode == 1, text  # for the other trial, which only has to end soon
    assert "base seed 0: queued" in text and "base seed 0: done" in text
    assert starts(folder) == [0, stopped_at]


@needs_slurm
def test_a_driver_that_is_asked_to_stop_leaves_its_trials_to_slurm(sweep, drive, tmp_path, environment):
    command = sweep(steps=200000)
    driver = stubs.start(command)
    folder = tmp_path / "out" / "base" / "seed0"
    until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text())
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 3 and "2 trials stay in Slurm's queue (scancel --name=cnnjax-" in said
    names = said.split("scancel --name=")[1].split(" ")[0]
    subprocess.run(["scancel", f"--name={names}"], env=environment, check=True)
    until(lambda: not queue(environment))
    assert [p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()], "it did not save"
    assert "stopped" in drive([*command, "--status"])


@needs_slurm
@pytest.mark.parametrize(
    "flags, said",
    [
        (["--partition=nowhere"], "There is no partition 'nowhere': Slurm has short."),
        (["--gpus=1"], "Slurm did not take the trials: "),
        (["--minutes=0"], "--minutes must be at least 1."),
        (["--gpus=two"], "--gpus must be a whole number, not 'two'."),
    ],
)
def test_what_slurm_cannot_do_is_said_in_a_line(sweep, drive, flags, said):
    text = drive([*sweep(), *flags], code=2)
    assert said in text and len(text.strip().splitlines()) <= 3, text


def test_without_slurm_or_submitit_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Slurm's sbatch, which is not here"):
        slurm.Slurm(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs submitit: pip install"):
        slurm.Slurm(tmp_path)


@pytest.fixture
def queue_of(tmp_path, monkeypatch):
    """A launcher whose Slurm has these folders in its queue."""
    launcher = object.__new__(slurm.Slurm)
    launcher._queued, launcher._left, launcher._earlier, launcher._asked_at = {}, {}, {}, 0.0
    monkeypatch.setattr(slurm, "ASK_SECONDS", -1.0)

    def holds(*folders):
        launcher._queue = lambda: dict.fromkeys(folders, "RUNNING")
        return launcher.holds(types.SimpleNamespace(folder=tmp_path))

    return holds


def ends(folder, code, seconds=1.0):
    (folder / "outcome.json").write_text(json.dumps(dict(exit_code=code, error="", seconds=seconds)))


def test_how_a_trial_ended_may_be_seen_later_than_that_it_left_the_queue(tmp_path, queue_of, monkeypatch):
    ends(tmp_path, 1)  # when it was tried before
    assert not queue_of() and queue_of(tmp_path)
    assert queue_of(), "its end is not to be seen yet"
    ends(tmp_path, 0, seconds=2.0)
    assert queue_of(), "its summary may not be there yet"
    ends(tmp_path, 1, seconds=3.0)
    assert not queue_of(), "it has failed"
    (tmp_path / "outcome.json").unlink()
    assert queue_of()
    monkeypatch.setattr(slurm, "APPEAR_SECONDS", 0.0)
    assert not queue_of(), "it ended without a word"


def run(command, environment):
    done = subprocess.run(command, cwd=several.ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_slurm
def test_the_tasks_of_a_job_step_are_one_run_without_any_flag(tmp_path, environment):
    flags = ["--config=experiments/digits.py", "--config.model.channels=4,8", "--config.model.blocks=1"]
    flags += ["--config.steps=10", "--config.log_every=2", "--config.data.test="]
    train = [*several.UNDRAWN, "train", *flags]
    text = run(["srun", "--ntasks=2", "--label", *train, f"--workdir={tmp_path / 'tasks'}"], environment)
    assert "layout  jit, data=2, shared by 2 processes" in text
    assert "0: data    digits" in text and "1: data    digits" not in text
    run([*train, f"--workdir={tmp_path / 'alone'}"], several.environment(2))
    ours, theirs = (read_entries(tmp_path / name) for name in ("tasks", "alone"))
    assert [e["step"] for e in ours] == [e["step"] for e in theirs] and len(ours) > 4
    for one, other in zip(ours, theirs):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)

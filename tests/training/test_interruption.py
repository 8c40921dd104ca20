"""Signals, as a person, a terminal or a scheduler sends them to the command line."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjax import cli
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import interruption
from cnnjax.training.logbook import read_entries
from tests import several
from tests.forked import Forked
from tests.several import ROOT
from tests.training.short_runs import assert_equal_trees, saved, timeless
from tests.undrawn import no_pictures

KNOBS = """
    model.channels=8 model.blocks=1 model.dropout=0.2 batch_size=64 steps=150 log_every=5 evaluate_every=3.1
    input.augmentation.mixup=1 kernels=xla schedule.name=plateau ema_decay=0.9 checkpoint.every_minutes=60 data.validation_fraction=0.3 data.test=
""".split()


def arguments(workdir, *flags):
    """Of a short run."""
    experiment = f"--config={ROOT / 'experiments' / 'digits.py'}"
    return ["train", experiment, f"--workdir={workdir}", *(f"--config.{knob}" for knob in (*KNOBS, *flags))]


def start(workdir, *flags, **environment):
    """A short run in a process group of its own, as a terminal would start it."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return Forked(arguments(workdir, *flags), several.environment(1, **environment), start_new_session=True, **pipes)


def wait_for(condition, process, seconds=120):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def group_is_gone(process, seconds=10):
    """Whether no process of the group is left."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    code, _, err = ended(start(workdir))
    assert code == 0, err
    return workdir


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_same_command_goes_on_to_the_same_bits(tmp_path, unbroken, number):
    for after in (2, 12):  # entries of the log: early, and later once more
        process = start(tmp_path)
        wait_for(lambda: len(read_entries(tmp_path)) > after, process)
        process.send_signal(number)
        code, _, err = ended(process)
        assert code == 3, err
        assert f"stopped by {number.name} at step " in err and "and saved. The same command goes on from there:" in err
        assert f"  python run.py {' '.join(arguments(tmp_path)[:4])}" in err
        assert "Traceback" not in err
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            step = checkpoints.newest()
        assert f"at step {step} of 150" in err and step >= read_entries(tmp_path)[-1]["step"]
    code, out, err = ended(start(tmp_path, PYTHONHASHSEED="1"))  # strings hash otherwise than before
    assert code == 0 and f"Going on from step {step} of 150." in out
    assert_equal_trees(saved(unbroken), saved(tmp_path))
    assert timeless(read_entries(unbroken)) == timeless(read_entries(tmp_path))


def test_a_second_signal_leaves_at_once(tmp_path):
    process = start(tmp_path, "model.channels=9,18,36", JAX_ENABLE_COMPILATION_CACHE="false")  # it compiles for seconds
    wait_for(lambda: (tmp_path / "config.json").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert any("once more to leave at once" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 128 + signal.SIGTERM and "Traceback" not in err


def test_a_trial_of_a_sweep_takes_the_echo_of_a_signal_for_the_same(tmp_path):
    process = start(tmp_path, "steps=100000", CNNJAX_TRIAL="1")
    wait_for(lambda: len(read_entries(tmp_path)) > 2, process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    code, _, err = ended(process)
    assert code == 3 and "and saved" in err


@pytest.mark.parametrize("trial, code", [(True, 3), (False, -signal.SIGTERM)])
def test_an_echo_that_comes_while_a_trial_ends_does_not_kill_it(trial, code):
    """Neither when it has saved, nor while Python ends, which takes its own handlers away first."""
    ends = """
import os, signal, sys
from cnnjax.training.interruption import watched

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)

last = Last()
with watched() as asked:
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT) if "CNNJAX_TRIAL" in os.environ else None
sys.exit(3)
"""
    env = {name: value for name, value in os.environ.items() if name != "CNNJAX_TRIAL"}
    process = subprocess.run(
        [sys.executable, "-c", ends], cwd=ROOT, env=env | (dict(CNNJAX_TRIAL="1") if trial else {})
    )
    assert process.returncode == code


def test_after_its_echoes_a_signal_ends_a_trial_at_once(monkeypatch):
    monkeypatch.setenv("CNNJAX_TRIAL", "1")
    before, ends = {number: signal.getsignal(number) for number in interruption.SIGNALS}, []
    try:
        with interruption.watched(ends.append) as asked:
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.by == "SIGTERM" and ends == []
        monkeypatch.setattr(interruption, "ECHO_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert ends == [128 + signal.SIGTERM]
    finally:
        atexit.unregister(interruption._ignore)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("how", [
    "ctrl-c of the whole group",
    pytest.param("terminate the whole group", marks=pytest.mark.slow),
    "kill -9 of the run",
])  # fmt: skip
def test_reading_workers_go_with_the_run_and_say_nothing(tmp_path, how):
    workers = 1 if how.startswith("kill") else 2
    process = start(tmp_path, "data.placement=stream", f"data.workers={workers}", "steps=100000")
    wait_for(lambda: len(read_entries(tmp_path)) > 2, process)
    if how.startswith("kill"):
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT if how.startswith("ctrl") else signal.SIGTERM)
    code, _, err = ended(process)
    assert code == (-signal.SIGKILL if how.startswith("kill") else 3), err
    assert "Traceback" not in err and group_is_gone(process)


def test_a_reading_worker_that_dies_is_told_in_a_line(tmp_path):
    process = start(tmp_path, "data.placement=stream", "data.workers=2", "steps=100000")
    wait_for(lambda: len(read_entries(tmp_path)) > 2, process)
    children = " ".join(path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
    workers = [int(n) for n in children if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    code, _, err = ended(process)
    said, _, rest = err.partition("\n")
    assert code == 1 and "Traceback" not in rest  # Python tells of shared memory that the killed one left
    assert said == (
        "cnnjax: A process that reads data died, perhaps for want of memory. Give the same command again, with a smaller "
        "--config.data.workers if it happens again."
    )
    assert group_is_gone(process)


def test_a_directory_in_use_is_refused_until_its_holder_is_gone(tmp_path, capsys, one_device):
    def run():
        with no_pictures():
            return cli.main(["run.py", *arguments(tmp_path, "steps=5")]), capsys.readouterr().err

    process = start(tmp_path, "steps=100000")
    wait_for(lambda: len(read_entries(tmp_path)) > 2, process)
    config = (tmp_path / "config.json").read_bytes()
    code, err = run()
    assert code == 2 and f"{tmp_path} is in use by process {process.pid} on " in err
    assert (tmp_path / "config.json").read_bytes() == config
    process.kill()
    ended(process)
    code, err = run()
    assert code == 0, err

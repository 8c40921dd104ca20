"""One run over several real processes: the same numbers, resumed in any number, ended together."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cnnjax import parallel, processes, serialization
from cnnjax.errors import UserError
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import opening
from cnnjax.training.logbook import read_entries
from tests.several import ROOT, ended, environment, start
from tests.training.short_runs import assert_equal_trees, small_config, timeless

# All that has a state or randomness of its own.
FLAGS = ["--config=experiments/digits.py"] + [
    f"--config.{knob}"
    for knob in """
    model.channels=8,16 model.blocks=1 model.dropout=0.2 batch_size=64 evaluate_every=0.7 input.augmentation.mixup=1
    input.augmentation.shift=0.1 ema_decay=0.9 optimizer.name=sgd optimizer.learning_rate=1.5 schedule.name=plateau
    schedule.patience=1 data.validation_fraction=0.5 eval_batch_size=128 checkpoint.every_minutes=0.003 log_every=5
    """.split()
]
STEPS, DEVICES = 40, 4  # of all processes together


def train(workdir, *flags, steps=STEPS, **more):
    """Runs processes to their end, which must be a good one, and returns what they printed."""
    found = ended(start(workdir, *FLAGS, f"--config.steps={steps}", *flags, **more))
    assert [code for code, _ in found] == [0] * len(found), "\n".join(output for _, output in found)
    assert not any("has died" in output for _, output in found)
    return [output for _, output in found]


def state_of(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_everything(STEPS)


def losses(workdir):
    return np.array([entry["loss"] for entry in read_entries(workdir)])


def scores(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name != "seconds"}


def assert_close(one, other):
    """Two runs that differ in the order of sums alone."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-4)
    assert scores(one)["accuracy"] == scores(other)["accuracy"]
    ours, theirs = (state_of(run)["model"]["params"] for run in (one, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), ours, theirs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, own_cache):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def by_two(runs):
    """The run of two processes that nothing disturbs."""
    main, other = train(runs / "two", unlike={1: dict(PYTHONHASHSEED="1")})  # strings hash otherwise in each
    assert "shared by 2 processes" in main and "(best)" in main
    assert "step" not in other, "only the main process tells of the run"
    rates = [entry["learning_rate"] for entry in read_entries(runs / "two") if entry["split"] == "train"]
    assert min(rates) < 0.1 * max(rates) * 1.01, "the plateau schedule has nothing to do"
    return runs / "two"


ONE_COPY = ("--config.fsdp=0", "--config.data.placement=stream")


@pytest.mark.parametrize("name, flags, more", [
    pytest.param("one with all devices", (), dict(count=1, devices=DEVICES), marks=pytest.mark.slow),  # as "2 then 1" below
    pytest.param("one with 1 device", ("--config.kernels=xla",), dict(count=1, devices=1), marks=pytest.mark.slow),
    pytest.param("two with one copy of the state that stream", ONE_COPY, {}, marks=pytest.mark.slow),  # "2 then 1" begins so
    pytest.param("two that stream", ("--config.data.placement=stream",), {}, marks=pytest.mark.slow),
    pytest.param("two whose data are on 2 devices", ("--config.data.placement=device",), dict(devices=1), marks=pytest.mark.slow),
])  # fmt: skip
def test_any_number_of_processes_gives_the_same_run(name, flags, more, runs, by_two):
    train(runs / name, *flags, **more)
    assert_close(by_two, runs / name)


@pytest.mark.parametrize("first, then", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(first, then, runs, by_two):
    """With one copy of the state between them, and data that are streamed; then on devices that hold the data."""
    folder = runs / f"{first} then {then}"
    train(folder, *ONE_COPY, steps=STEPS // 2, count=first, devices=DEVICES // first)
    said = train(folder, "--config.data.placement=device", count=then, devices=DEVICES // then)
    assert f"Going on from step {STEPS // 2} of {STEPS}." in said[0]
    assert_close(by_two, folder)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_killed_ends_all_and_both_started_again_end_with_the_same_bits(victim, runs, by_two):
    folder = runs / f"killed {victim}"
    started = start(folder, *FLAGS, f"--config.steps={STEPS}")
    end = time.monotonic() + 120
    while not (folder / "checkpoints").is_dir() or not any(
        p.name.isdigit() for p in (folder / "checkpoints").iterdir()
    ):
        assert time.monotonic() < end and started[0].poll() is None, ended(started, 5)
        time.sleep(0.02)
    started[victim].kill()
    at = time.monotonic()
    found = ended(started, 60)
    code, said = found[1 - victim]
    assert code not in (0, None) and time.monotonic() - at < 60
    assert any(words in said for words in ("has died", "cannot be reached")), said
    assert f"process {victim} of this run has died: it was killed" in found[victim][1]
    train(folder)
    assert timeless(read_entries(folder)) == timeless(read_entries(by_two))
    assert_equal_trees(state_of(folder), state_of(by_two))
    assert scores(folder) == scores(by_two)


@pytest.mark.parametrize("asked", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_stops_all_at_the_same_step(asked, runs):
    folder = runs / f"asked {asked}"
    started = start(folder, *FLAGS, "--config.steps=20000", "--config.evaluate_every=3")
    end = time.monotonic() + 120
    while len(read_entries(folder)) < 3:
        assert time.monotonic() < end and started[0].poll() is None, ended(started, 5)
        time.sleep(0.05)
    started[asked].send_signal(signal.SIGTERM)
    found = ended(started, 60)
    assert [code for code, _ in found] == [3, 3], found
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.newest()
    for _, said in found:
        assert f"stopped by SIGTERM at step {step} of 20000, and saved" in said and "has died" not in said


def test_other_knobs_in_one_process_are_named(runs):
    own = {1: ("--config.optimizer.learning_rate=0.5", "--config.log_every=5")}
    (main_code, main), (code, said) = ended(start(runs / "unlike", *FLAGS, own=own))
    assert code == main_code == 2
    assert "another configuration than process 0: config.optimizer.learning_rate is 1.5 there, 0.5 here" in said
    assert "process 1 on" in main and "config.optimizer.learning_rate is 1.5 there" in main
    assert "Traceback" not in main + said


@pytest.mark.slow  # the same by a fake store below
def test_another_folder_in_one_process_is_refused(runs):
    own = {1: (f"--workdir={runs / 'elsewhere'}",)}
    (main_code, main), (code, said) = ended(start(runs / "here", *FLAGS, "--config.steps=2", own=own))
    assert code == main_code == 2 and "is not the folder that process 0 has" in said
    assert "process 1 on" in main and "Traceback" not in main + said


@pytest.mark.slow  # the same by a fake store below
def test_what_several_processes_cannot_do(runs):
    for flag, said in [
        ("--config.compile_with=pmap", "config.compile_with=pmap serves one process"),
        ("--config.devices=1", "config.devices=1, but the 2 processes have 2 together"),
    ]:
        found = ended(start(runs / "refused", *FLAGS, flag, devices=1))
        assert [code for code, _ in found] == [2, 2]
        outputs = "".join(output for _, output in found)  # what both would say, one says
        assert said in outputs and "Traceback" not in outputs


@pytest.fixture
def process_1_of_2(monkeypatch):
    """This process is the second of two; what the main one tells stands in the list that is given."""
    told = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)
    monkeypatch.setattr(processes, "by_main", lambda function: told.pop(0))
    return told


def test_a_folder_that_is_not_the_main_processs_is_refused(tmp_path, process_1_of_2, monkeypatch):
    monkeypatch.setattr(opening, "SEEN_SECONDS", 0.3)
    (tmp_path / ".lock").write_text("process 7 on a\n")
    process_1_of_2 += ["process 7 on a", "process 8 on b"]
    with opening.taken(tmp_path):
        pass
    with pytest.raises(UserError, match="is not the folder that process 0 has: give one that all hosts share"):
        with opening.taken(tmp_path):
            pytest.fail("it was taken")


def test_other_data_or_knobs_than_the_main_processs_are_refused(process_1_of_2):
    config = small_config()
    process_1_of_2 += ["of other data", serialization.to_json(small_config(log_every=9))]
    with pytest.raises(UserError, match="other data than process 0"):
        processes.require_same("data", "of these")
    with pytest.raises(UserError, match="config.log_every is 9 there, 4 here"):
        opening.require_same_config(config)
    process_1_of_2 += ["of these", serialization.to_json(config)]
    processes.require_same("data", "of these")
    opening.require_same_config(config)


@pytest.mark.parametrize("changes, said", [
    (dict(compile_with="pmap"), "config.compile_with=pmap serves one process"),
    (dict(devices=1), "config.devices=1, but the 2 processes have 8 together"),
])  # fmt: skip
def test_what_several_processes_cannot_do_is_said(process_1_of_2, changes, said):
    with pytest.raises(UserError, match=said):
        parallel.layout(**changes)


@pytest.mark.parametrize("given, said", [
    (("host:1", None, "0"), "--processes is missing"),
    ((None, "2", None), "--coordinator, --process is missing"),
    (("host", "2", "0"), "--coordinator must be HOST:PORT"),
    (("host:x", "2", "0"), "--coordinator must be HOST:PORT"),
    (("host:1", "two", "0"), "--processes must be a whole number, not 'two'"),
    (("host:1", "2", "2"), "--process counts from 0: with --processes=2 the last is 1"),
])  # fmt: skip
def test_flags_that_do_not_do(given, said):
    with pytest.raises(UserError, match=said):
        processes.place_of(*given)


def test_a_slurm_step_of_several_tasks_needs_no_flags(monkeypatch):
    assert processes.place_of(None, None, None) is None
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert processes.place_of(None, None, None) is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert processes.place_of(None, None, None) == (None, 4, 1)
    assert processes.place_of("host:1", "2", "0") == ("host:1", 2, 0)
    assert processes.place_of("host:1", "1", "0") is None


@pytest.mark.parametrize("tasks, visible, coordinator, own", [
    ("8(x2)", "0,1,2,3,4,5,6,7", None, None),  # JAX gives each task the device of its number
    ("1(x2)", "0,1,2,3", None, []),  # one task a node has them all
    ("4", "0", None, []),  # Slurm shows each task its own
    ("4", "0,1,2,3", "host:1", []),
])  # fmt: skip
def test_which_devices_a_process_has(tasks, visible, coordinator, own, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes._own_devices(processes.Place(coordinator, 8, 0)) == own


def test_a_process_without_devices_says_so_to_all(runs):
    first, second = start(runs / "no devices", *FLAGS, devices=1, unlike={1: dict(JAX_PLATFORMS="cuda")})
    (main_code, main), (code, said) = ended([first, second], 100)
    assert main_code == code == 2 and "JAX finds no devices" in said
    assert "process 1 on" in main and "JAX finds no devices" in main
    assert "Traceback" not in main + said


def test_a_missing_process_is_reported():
    """In a process of its own, with less patience."""
    code = (
        "from cnnjax import processes; processes.JOIN_SECONDS = 2\n"
        "from cnnjax.errors import UserError\n"
        "try:\n"
        "  with processes.together(processes.place_of('127.0.0.1:1', '2', '1')): pass\n"
        "except UserError as error: print('said:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=60
    )
    assert "said: Process 0 cannot be reached at --coordinator=127.0.0.1:1" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("end, code, speaks", [
    ("os.abort()", -signal.SIGABRT, True),
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
    ("processes.leave_at_once(3)", 3, False),
    ("os.kill(processes._witness.pid, signal.SIGSTOP); processes.leave_at_once(3)", 3, False),
    ("with watched(processes.leave_at_once): [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]", 143, False),
])  # fmt: skip
def test_a_witness_speaks_for_a_process_that_died_without_a_word(end, code, speaks):
    code_before = (
        "import os, signal; from cnnjax import processes; from cnnjax.training.interruption import watched\n"
        "processes._call_witness()\n"
        "print(processes._witness.pid, flush=True)\n"
    )
    command = [sys.executable, "-c", code_before + end]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    witness = int(process.stdout.readline())
    assert process.wait(timeout=60) == code
    os.kill(witness, signal.SIGCONT) if "SIGSTOP" in end else None
    said = process.communicate(timeout=10)[0]
    assert ("process 0 of this run has died: it was killed" in said) == speaks, said

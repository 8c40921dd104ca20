"""The process around a trial, with commands that stand for training."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnjax.sweeps import trial

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(folder, code):
    command = [sys.executable, "-m", "cnnjax.sweeps.trial", str(folder), sys.executable, "-uc", code]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "code, exit_code, error",
    [
        ("print('fine')", 0, ""),
        ("import os, sys; sys.exit(os.environ.get('CNNJAX_TRIAL') != '1')", 0, ""),  # it knows that it is a trial
        (
            "import sys; print('cnnjax: The loss is not finite.', file=sys.stderr); sys.exit(1)",
            1,
            "The loss is not finite.",
        ),
        ("raise ValueError('of mine')", 1, "exit code 1: ValueError: of mine"),
        ("import os; os.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
        ("import sys; sys.exit(5)", 5, "exit code 5: it printed nothing"),
    ],
)
def test_its_outcome_says_how_a_command_ended(tmp_path, code, exit_code, error):
    assert start(tmp_path, code).wait() == exit_code
    outcome = trial.outcome_of(tmp_path)
    assert (outcome["exit_code"], outcome["error"]) == (exit_code, error)
    assert not trial.is_held(tmp_path)


def test_what_is_printed_is_kept(tmp_path):
    for _ in range(2):
        start(tmp_path, "print('a line')").wait()
    assert (tmp_path / trial.LOG).read_text() == "a line\na line\n"


def test_a_signal_is_handed_on_as_sigterm(tmp_path):
    code = "import signal, time, sys; signal.signal(15, lambda *_: sys.exit(3)); print('ready'); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGUSR2):
        (tmp_path / trial.LOG).unlink(missing_ok=True)
        process = start(tmp_path, code)
        until(lambda: (tmp_path / trial.LOG).exists() and (tmp_path / trial.LOG).read_text())
        process.send_signal(number)
        assert process.wait(timeout=20) == 3


def test_two_never_have_one_trial(tmp_path):
    first = start(tmp_path, "import time; time.sleep(60)")
    until(lambda: trial.is_held(tmp_path))
    assert start(tmp_path, "print('second')").wait() == trial.TAKEN
    until(lambda: trial.holder(tmp_path))
    assert trial.holder(tmp_path)["pid"] == first.pid
    trial.ask_to_stop(tmp_path)
    assert first.wait(timeout=20) == 128 + signal.SIGTERM
    assert trial.outcome_of(tmp_path)["error"] == "killed by SIGTERM"


def test_a_command_whose_keeper_was_killed_still_has_the_trial(tmp_path):
    code = "import os, time; print(os.getpid()); time.sleep(60)"
    keeper = start(tmp_path, code)
    until(lambda: (tmp_path / trial.LOG).exists() and (tmp_path / trial.LOG).read_text().strip())
    keeper.kill()
    keeper.wait()
    assert trial.is_held(tmp_path)
    os.kill(int((tmp_path / trial.LOG).read_text()), signal.SIGKILL)
    until(lambda: not trial.is_held(tmp_path))
    assert trial.outcome_of(tmp_path) is None

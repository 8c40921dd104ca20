"""A forked run is a process like one that was started: tests that use it prove the same."""

import json
import os
import signal
import subprocess

import pytest

from tests import forked, several

PIPES = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_has_the_environment_of_one_that_was_started():
    env = several.environment(3, CNNJAX_CACHE_DIR="elsewhere")
    run = forked.Forked(["environment"], env, **PIPES)
    started = subprocess.run(
        [*several.UNDRAWN, "environment"], cwd=forked.ROOT, env=env, capture_output=True, text=True
    )
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "") and run._keeper is not None, err
    assert json.loads(out) == json.loads(started.stdout) and "device_count=3" in out


def test_it_ends_with_the_code_and_the_words_of_a_misuse():
    run = forked.Forked(["train", "--config=nowhere.py"], several.environment(1), **PIPES)
    out, err = run.communicate(timeout=60)
    assert (
        run.returncode == run.poll() == 2 and err == "cnnjax: There is no experiment file nowhere.py.\n" and out == ""
    )


@pytest.mark.parametrize(
    "how, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_it_takes_a_signal_as_soon_as_it_is_there(how, code):
    run = forked.Forked(
        ["config", "--config=experiments/digits.py"], several.environment(1), start_new_session=True, **PIPES
    )
    os.killpg(run.pid, how)
    _, err = run.communicate(timeout=60)
    assert run.returncode in (code, -how), err


def test_where_its_environment_cannot_be_changed_any_more_it_is_started():
    run = forked.Forked(["environment"], several.environment(1, PYTHONHASHSEED="1"), **PIPES)
    assert json.loads(run.communicate(timeout=60)[0])["PYTHONHASHSEED"] == "1" and run._keeper is None


def test_what_cannot_fork_any_more_says_so_and_another_one_begins():
    server, _ = forked._server(os.getpid())
    server.close()
    with pytest.raises(RuntimeError, match="cannot fork"):
        forked.Forked(["environment"], several.environment(1), **PIPES)
    run = forked.Forked(["environment"], several.environment(1), **PIPES)
    run.communicate(timeout=60)
    assert run.returncode == 0

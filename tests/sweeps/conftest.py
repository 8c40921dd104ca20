"""Sweeps whose trials are stubs, run in this process."""

import contextlib

import pytest

with contextlib.suppress(ImportError):
    import submitit  # noqa: F401 (its log goes to what is standard output now, not to what a single test captures)

from cnnjax.sweeps import local, slurm
from tests.sweeps import stubs


@pytest.fixture
def drive(monkeypatch, request, capsys):
    """`drive(arguments, code=0)` runs a sweep to its end, checks its exit code, and returns what it printed."""
    monkeypatch.chdir(request.config.rootpath)
    for module in (local, slurm):
        monkeypatch.setattr(module, "train_command", stubs.train_command)
    start, started = local.Local._start, []

    def noted(launcher, trial, slot):
        start(launcher, trial, slot)
        started.append(launcher._started[trial.folder])

    monkeypatch.setattr(local.Local, "_start", noted)

    def run(arguments, code=0):
        found = stubs.main(list(arguments))
        while started:  # what a trial writes last comes before its process ends
            started.pop().wait()
        out, err = capsys.readouterr()
        assert found == code and "Traceback" not in err, out + err
        return out + err

    return run

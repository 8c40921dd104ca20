"""Runs that have ended, for the tests of what comes after."""

import shutil

import pytest

from tests.training.short_runs import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(workdir, **changes) -> summary`: as `short_runs.train`, which a worker calls once for the same changes."""
    runs = {}

    def copied(workdir, **changes):
        key = tuple(sorted(changes.items()))
        if key not in runs:
            folder = tmp_path_factory.mktemp("trained")
            runs[key] = folder, train(folder, **changes)[0]
        folder, summary = runs[key]
        shutil.copytree(folder, workdir, dirs_exist_ok=True)
        return summary

    return copied

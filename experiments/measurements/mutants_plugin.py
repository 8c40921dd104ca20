"""What `mutants.py` asks of pytest: which test runs now, for how long, in which order, and which fail."""

import json
import os
import time
from pathlib import Path

import pytest

RECORD, ORDER, FAILED = (os.environ.get(f"CNNJAX_{name}") for name in ("RECORD", "ORDER", "FAILED"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    started = time.monotonic()
    if RECORD:
        import coverage

        if (current := coverage.Coverage.current()) is not None:
            current.switch_context(item.nodeid)
            current.config.context = item.nodeid  # of the processes that the test starts
            os.environ["COVERAGE_PROCESS_CONFIG"] = current.config.serialize()
    result = yield
    if RECORD:
        with open(RECORD, "a") as file:
            file.write(json.dumps([item.nodeid, round(time.monotonic() - started, 3)]) + "\n")
    return result


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if ORDER:
        place = {test: n for n, test in enumerate(Path(ORDER).read_text().splitlines())}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in place])
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])


def pytest_runtest_logreport(report):
    if FAILED and report.failed:
        with open(FAILED, "a") as file:
            file.write(report.nodeid + "\n")

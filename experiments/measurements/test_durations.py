"""How long each test takes, and each folder of tests: a table from what pytest prints.

    .venv/bin/python -m pytest --durations=0 --durations-min=0 -vv > log.txt
    python experiments/measurements/test_durations.py log.txt --table=experiments/results/test_durations.csv

The table has a line a test, the longest first, with the seconds of its set-up (of a fixture that several tests share, in the
first of them), its call and its tear-down. What is printed are the sums of folders and files.
"""

import argparse
import collections
import csv
import re
from pathlib import Path

PHASES = ("setup", "call", "teardown")


def read(log: str) -> dict[str, dict[str, float]]:
    """{test: {phase: seconds}} from the lines '1.23s call tests/x.py::test_y'."""
    found: dict[str, dict[str, float]] = {}
    for seconds, phase, test in re.findall(rf"^([\d.]+)s ({'|'.join(PHASES)})\s+(\S.*)$", log, re.MULTILINE):
        found.setdefault(test, dict.fromkeys(PHASES, 0.0))[phase] += float(seconds)
    return found


def sums(found: dict[str, dict[str, float]], name) -> list[tuple[str, float, int]]:
    """(what `name(test)` says, seconds, tests), the longest first."""
    seconds, tests = collections.Counter(), collections.Counter()
    for test, phases in found.items():
        seconds[name(test)] += sum(phases.values())
        tests[name(test)] += 1
    return [(group, total, tests[group]) for group, total in seconds.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+")
    parser.add_argument("--table", default="", help="a CSV file to write")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for log in arguments.logs:
        found |= read(Path(log).read_text(errors="replace"))
    if arguments.table:
        with open(arguments.table, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["test", *PHASES])
            for test, phases in sorted(found.items(), key=lambda item: -sum(item[1].values())):
                writer.writerow([test, *(f"{phases[phase]:.2f}" for phase in PHASES)])
    for title, name in (
        ("folder", lambda test: str(Path(test.split("::")[0]).parent)),
        ("file", lambda t: t.split("::")[0]),
    ):
        print(f"\n{title:50} seconds  tests")
        for group, seconds, tests in sums(found, name):
            print(f"{group:50} {seconds:7.1f}  {tests:5d}")
    print(f"\n{sum(sum(phases.values()) for phases in found.values()):.0f} s of {len(found)} tests")


if __name__ == "__main__":
    main()

"""`run.py`, but that runs draw nothing at their end: `python -m tests.undrawn train ...`, for tests that start processes."""

import sys

from cnnjax import cli
from tests.training.short_runs import no_pictures

if __name__ == "__main__":
    with no_pictures():
        code = cli.main(["run.py", *sys.argv[1:]])
    sys.exit(code)

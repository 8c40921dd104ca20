"""Runs that draw nothing at their end, which takes longer than all steps of a short one.

In a test `with no_pictures(): ...`; for tests that start processes, `python -m tests.undrawn train ...` in place of `run.py`.
"""

import contextlib
import json
import os
import sys
from types import SimpleNamespace
from unittest import mock

NOTHING = SimpleNamespace(learning_curves=lambda *_: None, save_figures=lambda workdir, figures: [])


@contextlib.contextmanager
def no_pictures():
    """Runs inside draw nothing; nor do they load what draws."""
    from cnnjax import training
    from cnnjax.tasks.classification import task as classification
    from cnnjax.tasks.segmentation import task as segmentation

    with (
        mock.patch.object(classification.Task, "figures", lambda *_: {}),
        mock.patch.object(segmentation.Task, "figures", lambda *_: {}),
        mock.patch.object(training, "report", NOTHING, create=True),
    ):
        yield


if __name__ == "__main__":
    from cnnjax import cli

    if sys.argv[1:] == ["environment"]:  # what a run would have
        print(json.dumps(dict(os.environ)))
        sys.exit(0)
    with no_pictures():
        code = cli.main(["run.py", *sys.argv[1:]])
    sys.exit(code)

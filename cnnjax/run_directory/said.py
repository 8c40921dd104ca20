"""What a person is told of a checkpoint that cannot be written or read, in place of what Orbax says."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

import jax
from absl import logging as absl_logging

from cnnjax.errors import UserError


def quiet() -> None:
    """Orbax reports a save in ten lines, and a failure in a hundred; what a person needs to know, our own log says."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = sys.unraisablehook
    if getattr(hook, "without_closed_loops", False):
        return

    def hushed(what):
        # When one write fails, TensorStore's threads tell of the others when Orbax no longer listens.
        if not (what.exc_type is RuntimeError and str(what.exc_value) == "Event loop is closed"):
            hook(what)

    hushed.without_closed_loops = True
    sys.unraisablehook = hushed


def reason(error: BaseException) -> str:
    """One line on an error; of TensorStore's, which name a file three times, what the system said."""
    if system := re.search(r"([^:]+) \[os_error_code", str(error)):
        return system[1].strip()
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def require_same_arrays(folder: Path, saved: Any, wanted: Any) -> None:
    """Raises UserError where two trees of arrays differ in names or shapes, naming the first."""

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in p): tuple(a.shape)
            for p, a in leaves
        }

    there, here = shapes(saved), shapes(wanted)
    differing = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if differing:
        shown = "; ".join(
            f"{name} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} here" for name in differing[:3]
        )
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"The checkpoint {folder} is of another architecture: {shown}{more}.")

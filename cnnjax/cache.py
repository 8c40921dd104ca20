"""Where cnnjax keeps what it can make again: downloaded sets, results of scanning a folder, compiled code."""

import os
from pathlib import Path

from cnnjax.errors import UserError


def cache_dir(*parts: str) -> Path:
    """The folder `parts` of the cache, created with mode 0700 where it is missing.

    The cache is $CNNJAX_CACHE_DIR, else $XDG_CACHE_HOME/cnnjax, else ~/.cache/cnnjax.

    Raises:
      UserError: it cannot be created.
    """
    path = _base()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in parts:  # one by one: `parents` would give those in between the default mode
            path /= part
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {path} cannot be created: {error.strerror}.\n"
            "Set CNNJAX_CACHE_DIR to a folder that can be written to."
        ) from error
    return path


def _base() -> Path:
    if own := os.environ.get("CNNJAX_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return Path(xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")) / "cnnjax"

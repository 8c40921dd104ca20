"""`python -m cnnjax`, which is what the command `cnnjax` runs."""

import sys

from cnnjax import cli


def run() -> None:
    """The command `cnnjax`, of an installed package."""
    sys.exit(cli.main(sys.argv))


if __name__ == "__main__":
    run()

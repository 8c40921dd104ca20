"""Launches cnnjax: `python run.py` says what can be typed."""

import sys

from cnnjax import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv))

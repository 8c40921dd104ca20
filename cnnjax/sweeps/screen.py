"""A table that is drawn over itself, on a terminal."""

import shutil
import sys
from typing import TextIO


class Screen:
    """`Screen(stream)(lines)` draws lines, over those that it drew before; what does not fit is left out and counted."""

    def __init__(self, stream: TextIO = sys.stdout):
        self._stream, self._height = stream, 0

    def __call__(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        room = max(2, size.lines - 2)
        if len(lines) > room:  # the head, and of the trials those that are not done first
            body = sorted(lines[1:], key=lambda line: " done " in line)
            lines = [lines[0], *body[: room - 2], f"... and {len(body) - room + 2} more"]
        back = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        self._stream.write(back + "".join(line[: size.columns - 1] + "\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)

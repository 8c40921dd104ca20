"""Draws the rooms of the code and what each imports, from the imports themselves.

python experiments/measurements/architecture.py

docs/architecture.md holds what it prints; a test compares them.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.test_architecture import FLOORS, PACKAGE, imports  # noqa: E402


def front_page(room: str) -> Path:
    """The file whose docstring says what a room holds."""
    folder = PACKAGE / room
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def what_it_holds(room: str) -> str:
    """The first sentence of its front page."""
    text = " ".join((ast.get_docstring(ast.parse(front_page(room).read_text())) or "").split())
    return text.split(". ")[0].removesuffix(".") + "."


def uses(room: str) -> list[str]:
    """The rooms that it imports, the foundations left out."""
    folder = PACKAGE / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    return sorted(set().union(*map(imports, files)) - {room} - FLOORS[0])


def drawing() -> str:
    """A row a room, the highest floor first."""
    rows = ["| floor | room | holds | uses (besides floor 0) |", "|---|---|---|---|"]
    for number, rooms in reversed(list(enumerate(FLOORS))):
        for room in sorted(rooms):
            name = f"`{room}/`" if (PACKAGE / room).is_dir() else f"`{room}.py`"
            rows.append(f"| {number} | {name} | {what_it_holds(room)} | {', '.join(uses(room))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(drawing())

"""Boxes around objects, as the Pascal VOC challenges wrote them: one XML file a picture (Everingham et al. 2010)."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from cnnjax.errors import UserError


class Box(NamedTuple):
    """An object: its class, and the pixels [top, bottom) x [left, right) that it covers, counted from 0."""

    name: str
    top: int
    left: int
    bottom: int
    right: int


def read_boxes(path: Path) -> tuple[list[Box], list[str]]:
    """The boxes of an annotation, and a line for each that has no area or cannot be read, which is left out.

    VOC counts pixels from 1 and includes the last one.

    Raises:
      UserError: the file is missing, or no XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no XML: {error}.") from None
    boxes, dropped = [], []
    for number, item in enumerate(root.iter("object"), 1):
        name = (item.findtext("name") or "").strip()
        try:
            left, top, right, bottom = (
                round(float(item.findtext(f"bndbox/{k}"))) for k in "xmin ymin xmax ymax".split()
            )
        except (TypeError, ValueError, OverflowError):
            dropped.append(f"{path.name}: box {number} ({name or 'no name'}) has no four numbers")
            continue
        if not name:
            dropped.append(f"{path.name}: box {number} has no name")
        elif right <= left or bottom <= top:
            dropped.append(f"{path.name}: box {number} ({name}) has no area: {left}, {top} to {right}, {bottom}")
        else:
            boxes.append(Box(name, top - 1, left - 1, bottom, right))
    return boxes, dropped


def read_image_set(root: Path, name: str) -> list[str]:
    """The names, without suffix, of the pictures of a split: `ImageSets/Main/{name}.txt`. Raises UserError without it."""
    path = root / "ImageSets" / "Main" / f"{name}.txt"
    try:
        return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. --voc takes a folder in the form of Pascal VOC."
        ) from None

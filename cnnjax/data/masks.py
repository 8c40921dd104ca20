"""What the pixels of mask files stand for.

- index: the value is the class; the numbers of a palette's entries likewise (kind palette).
- binary: 0 is background, 1 or 255 the object.
- colour: a colour of the legend is its class; a palette's numbers stand for their colours, grey v for (v, v, v).
- instances: 0 is background, every other value an object of its own.

Taken for `auto`: colour where a file is in colour or the legend names colours; binary where no other values than 0 and 255,
or 0 and 1, stand in the legend, or without one occur; instances where a file has 16 bits and there is no legend; index else.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data.source import IGNORED
from cnnjax.errors import UserError

TWO = ({0, 255}, {0, 1})  # the values of binary masks
GREY = 0x010101  # times v: the colour (v, v, v)
MOST_CLASSES = 255  # 255 itself marks pixels that do not count


class Look(NamedTuple):
    """What is seen of a mask file."""

    shape: tuple[int, ...]  # [H, W], or [H, W, 3]
    bits: int
    values: np.ndarray  # that occur, sorted; of colours 65536 red + 256 green + blue


class Code(NamedTuple):
    """How a set's masks are read: of each value the class."""

    kind: str
    class_names: tuple[str, ...]
    values: tuple[int, ...]  # of each class, in their order; of instances only 0
    ignore: int

    def classes(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Pixels as stored -> `mask` `[H, W]` uint8, and of instances `instances` `[H, W]` uint16."""
        if self.kind == "instances":
            ignored = pixels == self.ignore
            instances = np.where(ignored, 0, pixels).astype(np.uint16)
            return dict(mask=np.where(ignored, IGNORED, instances > 0).astype(np.uint8), instances=instances)
        pixels = packed(pixels) if self.kind == "colour" else pixels
        if self.kind == "binary":
            mask = (pixels > 0).astype(np.uint8)
        else:
            order = np.argsort(self.values)
            mask = order[np.searchsorted(self.values, pixels, sorter=order).clip(0, len(order) - 1)].astype(np.uint8)
        mask[pixels == self.ignore] = IGNORED
        return dict(mask=mask)

    def seen(self, look: Look) -> np.ndarray:
        """The values that occur; of colours, those that grey stands for."""
        return look.values * GREY if self.kind == "colour" and len(look.shape) == 2 else look.values

    def stranger(self, look: Look) -> int | None:
        """A value that stands for no class, or None."""
        if self.kind == "instances":
            return None
        known = (0, 1, 255) if self.kind == "binary" else self.values
        others = np.setdiff1d(self.seen(look), [*known, self.ignore])
        return int(others[0]) if len(others) else None


def look_at(pixels: np.ndarray) -> Look:
    """What is to be seen of a mask as stored."""
    values = np.unique(packed(pixels)) if pixels.ndim == 3 else np.flatnonzero(np.bincount(pixels.ravel()))
    return Look(pixels.shape, 8 * pixels.dtype.itemsize, values)


def packed(pixels: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` uint8 -> `[H, W]` int64, a number a colour; grey stands for the colour with three equal parts."""
    if pixels.ndim == 2:
        return pixels.astype(np.int64) * GREY
    return pixels.astype(np.int64) @ np.array([65536, 256, 1])


def names_colours(legend: dict | None) -> bool:
    return bool(legend) and not isinstance(next(iter(legend.values())), int)


def code_of(looks: Iterable[Look], kind: str, legend: dict | None, ignore: int, known: Code | None = None) -> Code:
    """How a set of masks is to be read.

    Args:
      kind: `config.source.mask_kind`.
      legend: of each class name its value, or its colour; None: there is none.
      known: how a trained network's masks were read, whose classes these are to have, whichever of them occur.

    Raises:
      UserError: the kind does not suit the masks or the legend.
    """
    if known and known.kind in ("index", "colour"):
        return known
    code = _code_of(list(looks), kind, legend, ignore)
    return code._replace(class_names=known.class_names) if known and code.kind in ("binary", "instances") else code


def _code_of(looks: list[Look], kind: str, legend: dict | None, ignore: int) -> Code:
    coloured = any(len(look.shape) == 3 for look in looks)
    by_colour = names_colours(legend)
    values = np.unique(np.concatenate([look.values for look in looks]))
    values = values[values != ignore]
    if kind == "auto":
        kind = _kind(looks, values, coloured, legend)
    if coloured and kind != "colour":
        raise UserError(
            f"config.source.mask_kind={kind} is for masks of one channel, but some are in colour: take colour."
        )
    if kind == "colour" and not by_colour:
        raise UserError(
            'Masks in colour need a legend: --config.source.legend=FILE.json with {"name": [red, green, blue], ...}.'
        )
    if by_colour and kind != "colour":
        raise UserError(f"The legend names colours, but config.source.mask_kind is {kind}: take colour.")
    if kind == "binary":
        legend = legend or dict(background=0, object=255)
        if set(legend.values()) not in TWO:
            given = ", ".join(f"{name} {value}" for name, value in legend.items())
            raise UserError(f"The legend of binary masks names the values 0 and 255, not {given}.")
        return Code(kind, tuple(sorted(legend, key=legend.get)), (0, 1), ignore)
    if kind == "instances":
        if legend:
            raise UserError("Numbered objects have no legend: leave out --config.source.legend.")
        return Code(kind, ("background", "object"), (0,), ignore)
    if kind == "colour":
        return Code(
            kind, tuple(legend), tuple(int(packed(np.array([[c]], np.uint8))[0, 0]) for c in legend.values()), ignore
        )
    if not legend:
        most = int(values.max(initial=0))
        if set(values.tolist()) == {0, 1, 255} and not any({1, 255} <= set(look.values.tolist()) for look in looks):
            raise UserError(
                "Some masks are of 0 and 1, others of 0 and 255. If both mean the same: --config.source.mask_kind=binary. "
                "Else mend the files."
            )
        if most >= MOST_CLASSES:
            raise UserError(
                f"Masks have values up to {most}: at most {MOST_CLASSES} classes can be told apart. Are they objects "
                "(--config.source.mask_kind=instances), or is one not to be counted (--config.source.ignore=VALUE)?"
            )
        legend = {str(k): k for k in range(max(most, 1) + 1)}
    return Code("index", tuple(legend), tuple(legend.values()), ignore)


def _kind(looks: list[Look], values: np.ndarray, coloured: bool, legend: dict | None) -> str:
    if coloured or names_colours(legend):
        return "colour"
    values = set(legend.values() if legend else values.tolist())
    if any(values <= two for two in TWO):
        return "binary"
    return "instances" if any(look.bits > 8 for look in looks) and not legend else "index"


def read_legend(path: str) -> dict | None:
    """A JSON file `{name: value}` or `{name: [red, green, blue]}`; None for no path.

    Raises:
      UserError: it is missing, or of another form.
    """
    if not path:
        return None
    form = 'must be JSON: {"name": number, ...} or {"name": [red, green, blue], ...}'
    try:
        legend = json.loads(Path(path).expanduser().read_text())
    except OSError as error:
        raise UserError(f"config.source.legend={path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"config.source.legend={path} {form} ({error}).") from None
    byte = lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255
    number = lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 65535
    colour = lambda v: isinstance(v, list) and len(v) == 3 and all(map(byte, v))
    entries = list(legend.values()) if isinstance(legend, dict) else []
    if not entries or not (all(map(number, entries)) or all(map(colour, entries))):
        raise UserError(f"config.source.legend={path} {form}.")
    if not 2 <= len(entries) <= MOST_CLASSES:
        raise UserError(f"config.source.legend={path} names {len(entries)} classes: 2 to {MOST_CLASSES} are possible.")
    seen: dict = {}
    for name, value in legend.items():
        other = seen.setdefault(str(value), name)
        if other != name:
            raise UserError(f"config.source.legend={path} gives {other!r} and {name!r} the same value, {value}.")
    return legend

"""The language in which tfds writes splits ('train', 'train[:90%]', 'train[10:20]+test'), for sources of any kind.

The rules are those of `tfds.core.ReadInstruction` with its default rounding ('closest'): boundaries are numbers of
examples or per cent of the split, negative ones count from its end, '+' joins, 'all' is every split in order. tfds's
shards are not among them, for other sources have none.
"""

import re

import numpy as np

from cnnjax.errors import UserError
from cnnjax.knobs import nearest

_PART = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>[^\[\]:]*):(?P<stop>[^\[\]:]*)\])?", re.ASCII)
_BOUNDARY = re.compile(r"(?P<number>-?[0-9.]+)(?P<percent>%?)", re.ASCII)


def select(spec: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """The ranges (split, start, stop) that a spec stands for, in its order; `sizes` are those of all splits.

    Raises:
      UserError: a malformed spec, an unknown split, a range out of bounds, or one without a single example.
    """
    parts = [_selected(spec, part, sizes) for part in re.split(r"\s*\+\s*", spec)]
    ranges = [(name, start, stop) for part in parts for name, start, stop in part if start < stop]
    if not ranges:
        has = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise UserError(f"Split {spec!r} holds no example: {has}.")
    return ranges


def indices(spec: str, sizes: dict[str, int]) -> np.ndarray:
    """The positions [n] int64 that a spec stands for where the splits lie one after another, in `sizes`' order."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    return np.concatenate([starts[name] + np.arange(start, stop) for name, start, stop in select(spec, sizes)])


def _selected(spec: str, part: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    match = _PART.fullmatch(part)
    if not match:
        raise _malformed(spec)
    name = match["name"]
    if name == "all" and "all" not in sizes:
        if match["start"] is not None:
            raise UserError(f"Split {spec!r}: 'all' cannot be cut. Cut {', '.join(sizes)}, and join the parts with +.")
        return [(split, 0, size) for split, size in sizes.items()]
    if name not in sizes:
        known = ", ".join(sizes)
        raise UserError(f"Split {spec!r}: there is no {name!r}.{nearest(name, sizes)} The splits are: {known}.")
    if match["start"] is None:
        return [(name, 0, sizes[name])]
    return [(name, *_range(spec, match["start"], match["stop"], sizes[name]))]


def _range(spec: str, start: str, stop: str, size: int) -> tuple[int, int]:
    """'10%', '-5' -> the positions they stand for among `size` examples; an empty text is the end on its side."""
    matches = [_BOUNDARY.fullmatch(text) for text in (start, stop)]
    if not (start or stop) or any(text and not match for text, match in zip((start, stop), matches, strict=True)):
        raise _malformed(spec)
    percent = any(match and match["percent"] for match in matches)  # of one boundary: both are meant so, as in tfds
    positions = []
    for match, default in zip(matches, (0, size), strict=True):
        try:
            number = default if match is None else float(match["number"]) if percent else int(match["number"])
        except ValueError:
            raise _malformed(spec) from None
        if match and percent:
            if abs(number) > 100:
                raise UserError(f"Split {spec!r}: {number:g} % is more than there is.")
            number = round(number * size / 100.0)
        if abs(number) > size:
            raise UserError(f"Split {spec!r}: {number} is out of range, for the split has {size} examples.")
        positions.append(number + size if number < 0 else number)
    return positions[0], positions[1]


def _malformed(spec: str) -> UserError:
    return UserError(f"{spec!r} is not a split; write one as train, train[:90%], train[100:200] or train+test.")

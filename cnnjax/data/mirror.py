"""Parts of pictures that reach beyond their borders, where the picture goes on as its mirror image.

Ronneberger, Fischer & Brox 2015, section 2: "missing input data is extrapolated by mirroring".
"""

import numpy as np


def mirrored(start: int, count: int, length: int) -> np.ndarray:
    """The positions `[count]` within `length` that `start, start + 1, ...` stand for: ... 2 1 | 0 1 2 | 1 0 1 ..."""
    period = max(2 * (length - 1), 1)
    position = np.arange(start, start + count) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(count, np.int64)


def cut(array: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """`[H, W, ...]` -> `[height, width, ...]` from (top, left) on, which may lie outside."""
    rows, columns = mirrored(top, height, array.shape[0]), mirrored(left, width, array.shape[1])
    if top >= 0 and left >= 0 and top + height <= array.shape[0] and left + width <= array.shape[1]:
        return array[top : top + height, left : left + width]
    return array[rows[:, None], columns[None, :]]

"""Masks for the eye: a colour a class, laid over the picture."""

import numpy as np

from cnnjax.data.source import IGNORED


def palette(classes: int = 256) -> np.ndarray:
    """`[classes, 3]` uint8: black for the first class, green, and hues a golden section of the circle apart: always the same."""
    hue = 1 / 3 + (np.arange(classes) - 1) * 0.618034
    # Each channel is high for a third of the circle and falls off to both sides.
    distance = np.abs((hue[:, None] - np.array([0, 1, 2])[None, :] / 3 + 0.5) % 1 - 0.5)
    colours = np.clip(2 - 6 * distance, 0, 1)
    colours[0] = 0
    return np.round(255 * colours).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """A picture `[H, W, C]` as stored -> `[H, W, 3]` uint8."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, -1)


def overlay(image: np.ndarray, mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """`[H, W, C]` as stored and classes `[H, W]` uint8 -> `[H, W, 3]` uint8: all but the first class are tinted, and outlined."""
    shown, table = as_rgb(image).copy(), palette()
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    marked = (mask > 0) & (mask != IGNORED)
    for rgb, row, marks, ends in zip(shown, mask, marked, edge):  # row by row: it is held once
        colours = table[row[marks]]
        rgb[marks] = np.where(ends[marks, None], colours, share * colours + (1 - share) * rgb[marks])
    return shown

"""Masks laid over images, as a figure."""

import numpy as np
from matplotlib.figure import Figure

from cnnjax.data.source import IGNORED
from cnnjax.tasks.segmentation.overlay import overlay


def overlays(examples: list[dict]) -> Figure:
    """A row an example: the picture, the truth over it, the prediction over it, and the pixels that differ.

    Each is a dict of `image` `[H, W, C]` as stored, `true` and `predicted` `[H, W]` uint8.
    """
    figure = Figure(figsize=(12, 3 * max(1, len(examples))), layout="constrained")
    figure.suptitle("Worst pictures: as given, truth, prediction, what differs")
    for row, example in zip(figure.subplots(max(1, len(examples)), 4, squeeze=False), examples or [None]):
        for axes in row:
            axes.axis("off")
        if example is None:
            continue
        image, true, predicted = example["image"], example["true"], example["predicted"]
        differs = ((true != predicted) & (true != IGNORED)).astype(np.uint8)
        shown = image, *(overlay(image, mask) for mask in (true, predicted)), 255 * differs
        for axes, picture in zip(row, shown):
            picture = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
            axes.imshow(picture, cmap="gray", vmin=0, vmax=np.iinfo(picture.dtype).max)
    return figure

"""Pictures of how a network does: its confusion matrix, its worst mistakes, masks laid over pictures.

Figures are made without pyplot: no display, no global state.
"""

import numpy as np
from matplotlib.figure import Figure

from cnnjax.tasks.overlay import IGNORED, overlay


def confusion_matrix(confusion: np.ndarray, class_names: tuple[str, ...], of: str = "examples") -> Figure:
    """`[K, K]` counts (row: label, column: prediction), coloured by the share of the row."""
    classes = len(class_names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(4 + 0.35 * classes, 14)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="label", title=f"Confusion matrix of {int(confusion.sum())} {of}")
    if classes <= 40:
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
    if classes <= 20:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def worst_mistakes(examples: list[dict], class_names: tuple[str, ...], columns: int = 6) -> Figure:
    """The examples that cost most, each with its label, and what was predicted and how surely.

    Each example is a dict of `image` `[H, W, C]` in [0, 1], `label`, `predicted`, `confidence`.
    """
    rows = max(1, -(-len(examples) // columns))
    figure = Figure(figsize=(1.9 * columns, 2.3 * rows), layout="constrained")
    figure.suptitle("Worst mistakes" if examples else "No mistakes")
    for axes, example in zip(figure.subplots(rows, columns, squeeze=False).flat, examples + [None] * (rows * columns)):
        axes.axis("off")
        if example is not None:
            image = np.clip(example["image"], 0, 1)
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            label, predicted = class_names[example["label"]], class_names[example["predicted"]]
            axes.set_title(f"{label}\nnot {predicted} ({example['confidence']:.0%})", fontsize=9)
    return figure


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

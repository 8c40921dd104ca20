"""Figures of several tasks. They are made without pyplot: no display, no global state."""

import numpy as np
from matplotlib.figure import Figure


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

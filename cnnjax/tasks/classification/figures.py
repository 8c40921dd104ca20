"""The worst mistakes as a figure."""

import numpy as np
from matplotlib.figure import Figure


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

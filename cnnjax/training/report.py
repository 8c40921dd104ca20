"""The pictures and the summary that a finished run leaves behind."""

import warnings
from pathlib import Path

from matplotlib.figure import Figure


def learning_curves(entries: list[dict], shown: tuple[str, ...] = ("loss", "accuracy")) -> Figure:
    """The scores of these names and the learning rate over epochs, from the entries of metrics.jsonl."""
    names = (*shown, "learning_rate")
    figure = Figure(figsize=(13 / 3 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names))
    for axes, score in zip(panels, names):
        for split in ("train", "validation"):
            points = [(e["epoch"], e[score]) for e in entries if e["split"] == split and score in e]
            if points:
                axes.plot(*zip(*points), label=split, linewidth=1 if split == "train" else 2)
        axes.set(xlabel="epoch", title=score.replace("_", " "))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def save_figures(workdir: Path, figures: dict[str, Figure]) -> list[str]:
    """Writes each as NAME.png and returns the file names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of class names in scripts that no font here has
        for name, figure in figures.items():
            figure.savefig(Path(workdir) / f"{name}.png", dpi=100)
    return [f"{name}.png" for name in figures]

"""Probabilities of images: in Python as arrays, on the command line as the most probable classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cnnjax.errors import UserError

BATCH = 64  # images that go through the network at once


def predictor(apply: Callable[[np.ndarray], np.ndarray], record) -> Callable[[np.ndarray], np.ndarray]:
    """A function of images `[N, H, W, C]` as stored (uint8: 0..255) to probabilities `[N, K]`.

    `apply` maps images to probabilities, and is compiled once for each shape; `record` says which images it takes. The
    function raises UserError for images of another shape.
    """

    def predict(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.shape[1:] != record.image_shape:
            shape = ", ".join(map(str, record.image_shape))
            raise UserError(f"This run takes images [N, {shape}], not {list(images.shape)}.")
        rows = []
        for start in range(0, len(images), BATCH):
            block = images[start : start + BATCH]
            filled = np.concatenate([block, np.repeat(block[-1:], BATCH - len(block), axis=0)])  # one shape
            rows.append(np.asarray(apply(filled))[: len(block)])
        return np.concatenate(rows) if rows else np.zeros((0, len(record.class_names)), np.float32)

    return predict


class Writer:
    """Says the `top` most probable classes of each image; nothing is saved."""

    where = ""

    def __init__(self, class_names: tuple[str, ...], top: int):
        self._names, self._top = class_names, top

    def check(self, paths: Sequence[Path]) -> None:
        """Any files can be printed."""

    def write(self, path: Path, image: np.ndarray, probabilities: np.ndarray) -> dict:
        """What is said of an image, as JSON values."""
        order = probabilities.argsort(kind="stable")[::-1][: self._top]
        return dict(classes=[dict(name=self._names[k], probability=round(float(probabilities[k]), 6)) for k in order])

    def line(self, said: dict) -> str:
        """The same for a person."""
        return "  ".join(f"{c['name']} {c['probability']:.1%}" for c in said["classes"])

    def close(self, rows: list[dict]) -> None:
        """Nothing was saved."""

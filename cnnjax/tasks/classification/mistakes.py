"""The examples that a network gets wrong."""

import heapq
from collections.abc import Iterable

import numpy as np


def worst_mistakes(outputs: Iterable[tuple[int, dict, np.ndarray]], most: int = 24) -> list[dict]:
    """The wrongly classified examples to whose label the least probability was given, worst first.

    Each is a dict of `index` (place in the split), `image` `[H, W, C]` in [0, 1], `label`, `predicted`, `confidence`.
    """
    mistakes: list[tuple[float, int, dict]] = []
    for first, batch, probabilities in outputs:
        predicted = probabilities.argmax(-1)
        for row in np.flatnonzero((predicted != batch["label"]) & (batch["weight"] > 0)):
            label, index = int(batch["label"][row]), first + int(row)
            entry = (-float(probabilities[row, label]), -index)
            if len(mistakes) < most or entry > mistakes[0][:2]:
                image = batch["image"][row]
                scale = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
                example = dict(
                    index=index,
                    image=image.astype(np.float32) / scale,
                    label=label,
                    predicted=int(predicted[row]),
                    confidence=float(probabilities[row].max()),
                )
                (heapq.heappushpop if len(mistakes) == most else heapq.heappush)(mistakes, (*entry, example))
    return [example for _, _, example in sorted(mistakes, key=lambda m: m[:2], reverse=True)]

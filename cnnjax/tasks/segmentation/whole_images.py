"""Whole images put together from the tiles that the network was applied to, and what is seen in them alone: objects."""

from collections.abc import Iterable, Iterator

import numpy as np

from cnnjax.data.source import IGNORED
from cnnjax.tasks.segmentation import instances
from cnnjax.tasks.segmentation.options import Options

SHOWN = 6  # images in the figure of the worst


def look(options: Options, outputs: Iterable[tuple[int, dict, np.ndarray]]) -> tuple[dict, list[dict]]:
    """Whole pictures put together from tiles: (sums over their objects, some pictures to show).

    Examples to show are dicts of `image` `[H, W, C]` as stored, `true` and `predicted` `[H, W]` uint8.
    """
    sums: dict = {}
    kept: list[tuple[float, int, dict]] = []
    for number, scene in enumerate(pictures(outputs)):
        found = dict(scenes=1) | _object_sums(options, scene)
        sums = {name: sums.get(name, 0) + value for name, value in found.items()}
        counted = scene["true"] != IGNORED
        wrong = float((scene["true"] != scene["predicted"])[counted].mean()) if counted.any() else 0.0
        shown = {name: scene[name] for name in ("image", "true", "predicted")}
        kept = sorted([*kept, (-wrong, number, shown)], key=lambda entry: entry[:2])[:SHOWN]
    return sums, [shown for _, _, shown in kept]


def _object_sums(options: Options, scene: dict) -> dict:
    """Sums over the objects of one picture, outside ignored pixels; none where the data do not tell objects apart."""
    true = scene.get("instances")
    if true is None and options.objects != "parts":
        return {}
    if true is None:
        true = instances.objects((scene["true"] > 0) & (scene["true"] != IGNORED))
    predicted = instances.objects(scene["predicted"] > 0, options.smallest_object)
    true, predicted = instances.counted(true, predicted, scene["true"] == IGNORED)
    return instances.object_sums(true, predicted) | instances.rand_sums(true, predicted)


def pictures(outputs: Iterable[tuple[int, dict, np.ndarray]]) -> Iterator[dict]:
    """Tiles `(first, batch, probabilities [B, h, w, K])` in order -> whole pictures, one at a time.

    Each is a dict of `image` `[H, W, C]`, `true` and `predicted` `[H, W]` uint8, and `instances` where tiles have them.
    """
    number, scene = None, {}
    for _, batch, probabilities in outputs:
        for row in np.flatnonzero(batch["weight"] > 0):
            picture, height, width, *place = map(int, batch["tile"][row])
            if picture != number:
                if scene:
                    yield scene
                number, scene = picture, _empty(batch, row, height, width)
            _lay(scene, batch, row, probabilities[row].argmax(-1), *place)
    if scene:
        yield scene


def _empty(batch: dict, row: int, height: int, width: int) -> dict:
    new = dict(true=np.full((height, width), IGNORED, np.uint8), predicted=np.zeros((height, width), np.uint8))
    for name in ("image", "instances"):
        if name in batch:
            array = batch[name]
            new[name] = np.zeros((height, width, *array.shape[3:]), array.dtype)
    return new


def _lay(scene: dict, batch: dict, row: int, predicted: np.ndarray, top: int, left: int, before: int, kept: int):
    """Writes what a tile keeps to its place: (top, left) of the picture is (before, before) of the tile."""
    rows, columns = (min(kept, n - start) for n, start in zip(scene["true"].shape, (top, left)))
    there = slice(top, top + rows), slice(left, left + columns)
    inside = slice(before, before + rows), slice(before, before + columns)
    for name, source in dict(true="mask", image="image", instances="instances").items():
        if name in scene:
            scene[name][there] = batch[source][row][inside]
    shift = before - (batch["mask"].shape[1] - predicted.shape[0]) // 2
    scene["predicted"][there] = predicted[shift : shift + rows, shift : shift + columns]

"""Several handwritten digits on a larger canvas, with the class of every pixel: real handwriting, no data to fetch.

A scene is 64x64 grey pixels: a smooth background of random brightness, noise, and three to six of the digits that
come with cnnjax (8x8, enlarged to 16x16) where there is room. Class 0 is background, class d + 1 the ink of digit d.
Scene i of a split is a function of (split, i) alone; train takes the first half of the digits, test the second, as
`digits` does.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from cnnjax.data import split_spec
from cnnjax.data.digits import TRAIN_SIZE, embedded
from cnnjax.data.source import Batch, Dataset, Scenes, subset

VERSION = "1.0.0"
SIDE, DIGIT = 64, 16  # pixels
SIZES = dict(train=800, test=200)
INK = 0.35  # of the darkest ink: a pixel is of a digit from here on
MOST, TRIES = 6, 40


def open_digit_scenes() -> Dataset:
    """The scenes of digits. Raises UserError for an unknown split."""
    whole = Scenes(
        np.full((sum(SIZES.values()), 2), SIDE),
        tuple(f"scene {i} of {split}" for split, size in SIZES.items() for i in range(size)),
        _Read(),
    )
    return Dataset(
        name=f"digit_scenes:{VERSION}",
        class_names=("background", *map(str, range(10))),
        image_shape=(0, 0, 1),
        dtype=np.dtype(np.uint8),
        split_sizes=dict(SIZES),
        split=lambda spec: subset(whole, split_spec.indices(spec, SIZES)),
        fingerprint=hashlib.sha256(f"digit_scenes {VERSION}".encode()).hexdigest(),
        has_objects=True,
    )


class _Read(NamedTuple):
    """`Scenes.read` of both splits, train first."""

    def __call__(self, index: int) -> Batch:
        index = int(index)
        return scene("train", index) if index < SIZES["train"] else scene("test", index - SIZES["train"])


def scene(split: str, index: int) -> Batch:
    """`image` `[64, 64, 1]`, `mask` and `instances` `[64, 64]`."""
    digits, labels = _digits()
    half = slice(0, TRAIN_SIZE) if split == "train" else slice(TRAIN_SIZE, None)
    digits, labels = digits[half], labels[half]
    random = np.random.Generator(np.random.Philox(key=np.array([list(SIZES).index(split), index], np.uint64)))
    corners = random.uniform(0, 0.5, (2, 2))
    ramp = np.linspace(0, 1, SIDE)
    down, right = np.stack([1 - ramp, ramp]), np.stack([1 - ramp, ramp])
    canvas = np.einsum("iy,ij,jx->yx", down, corners, right) + random.normal(0, 0.06, (SIDE, SIDE))
    mask, instances = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint16)
    wanted = random.integers(3, MOST + 1)
    for _ in range(TRIES):
        if instances.max() == wanted:
            break
        top, left = random.integers(0, SIDE - DIGIT + 1, 2)
        chosen, strength = random.integers(len(digits)), random.uniform(0.6, 1.0)
        place = slice(top, top + DIGIT), slice(left, left + DIGIT)
        if instances[place].any():
            continue
        ink = digits[chosen]
        canvas[place] = np.maximum(canvas[place], strength * ink)
        mask[place][ink >= INK] = labels[chosen] + 1
        instances[place][ink >= INK] = instances.max() + 1
    image = np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8)
    return dict(image=image[..., None], mask=mask, instances=instances)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(digits `[1797, 16, 16]` in [0, 1], labels): enlarged linearly, each side by its own matrix."""
    images, labels = embedded()
    places = np.clip((np.arange(DIGIT) + 0.5) / 2 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)[None, :]))
    return np.einsum("yi,nij,xj->nyx", weights, images / 16, weights), labels.astype(np.int64)

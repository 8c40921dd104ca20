"""Two handwritten digits far apart, a 0 and a 1; the class is their order. What no narrow field of view can know.

A scene is an empty canvas of 16x112 grey pixels with two of the digits that come with cnnjax, as they are (8x8). The
left edge of one is 16 to 31 pixels right of the other's, so at least 8 empty columns lie between them; class "01" has the 0
on the left, "10" the 1.

Nothing but the order tells the classes apart:

- Scenes 2i and 2i + 1 hold the same two digits, each in its own row, at the same two places, exchanged. Windows of up to 9
  columns hold one of them at most, and show the same in both; so do wider ones that do not reach from ink to ink. A network
  that adds up what such windows show, as one with global pooling does, gives both scenes the same answer: exactly half of
  its answers are right. The border, which padding makes visible, is further away, 32 columns or more.
- With strides it does matter where a window begins. Place and distance are uniform over 8 and 16 columns, so of the strides
  2, 4 and 8 every pair of phases is as likely in both classes.

Scene i of a split is a function of (split, i) alone; train takes the first half of the digits, test the second, as
`digits` does.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from cnnjax.data import split_spec
from cnnjax.data.digits import SCALE, TRAIN_SIZE, embedded
from cnnjax.data.source import Batch, Dataset, Split, subset

VERSION = "1.0.0"
HEIGHT, WIDTH, DIGIT = 16, 112, 8  # pixels
PLACES = (32, 40)  # columns: where the left digit begins, the last excluded
DISTANCES = (16, 32)  # columns from there to where the right one begins
SIZES = dict(train=4000, test=1000)
KINDS = (0, 1)


def open_digit_pairs() -> Dataset:
    """The pairs of digits. Splits raise UserError for an unknown name."""
    whole = Split(sum(SIZES.values()), _Read())
    return Dataset(
        name=f"digit_pairs:{VERSION}",
        class_names=("01", "10"),
        image_shape=(HEIGHT, WIDTH, 1),
        dtype=np.dtype(np.uint8),
        split_sizes=dict(SIZES),
        split=lambda spec: subset(whole, split_spec.indices(spec, SIZES)),
        fingerprint=hashlib.sha256(f"digit_pairs {VERSION}".encode()).hexdigest(),
    )


class _Read(NamedTuple):
    """`Split.read` of both splits, train first."""

    def __call__(self, indices: np.ndarray) -> Batch:
        places = [("train", i) if i < SIZES["train"] else ("test", i - SIZES["train"]) for i in map(int, indices)]
        images = np.array([scene(split, i) for split, i in places], np.uint8).reshape(-1, HEIGHT, WIDTH, 1)
        return dict(image=images, label=np.array([i % 2 for _, i in places], np.int32))


def scene(split: str, index: int) -> np.ndarray:
    """The picture `[16, 112, 1]` uint8; its class is `index % 2`."""
    random = np.random.Generator(np.random.Philox(key=np.array([list(SIZES).index(split), index // 2], np.uint64)))
    left, distance = random.integers(*PLACES), random.integers(*DISTANCES)
    tops = random.integers(0, HEIGHT - DIGIT + 1, len(KINDS))
    columns = (left, left + distance) if index % 2 == 0 else (left + distance, left)
    image = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    for digits, top, column in zip(_digits(split), tops, columns, strict=True):
        image[top : top + DIGIT, column : column + DIGIT, 0] = digits[random.integers(len(digits))]
    return image


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, ...]:
    """Of each kind the digits `[n, 8, 8]` uint8 of a split."""
    (images, labels), half = embedded(), slice(TRAIN_SIZE) if split == "train" else slice(TRAIN_SIZE, None)
    return tuple(images[half][labels[half] == kind] * np.uint8(SCALE) for kind in KINDS)

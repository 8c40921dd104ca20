"""Digits on a canvas."""

import hashlib
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnnjax.data import digit_scenes
from cnnjax.errors import UserError
from tests.data.sets import opened, options


@pytest.fixture(scope="module")
def dataset():
    return opened(options.DigitScenes(), "mask")


def test_a_scene_is_the_same_for_ever():
    arrays = [
        digit_scenes.scene(split, i)["mask"].tobytes() for split, i in (("train", 0), ("train", 799), ("test", 5))
    ]
    assert hashlib.sha256(b"".join(arrays)).hexdigest() == (
        "f6ddbdc23abdd86c2efb239f6696474b892bfc826212b3496e27d9ed729bf05d"
    )


def test_splits(dataset):
    assert dataset.split_sizes == dict(train=800, test=200) and len(dataset.class_names) == 11
    train, test = dataset.split("train[:25%]"), pickle.loads(pickle.dumps(dataset.split("test")))
    assert (train.size, test.size) == (200, 200) and test.names[3] == "scene 3 of test"
    np.testing.assert_array_equal(test.read(7)["image"], digit_scenes.scene("test", 7)["image"])
    np.testing.assert_array_equal(train.read(7)["image"], digit_scenes.scene("train", 7)["image"])


def test_every_digit_stands_whole_with_its_class():
    found, seen = load_digits(), set()
    ink = {}
    for i, (image, label) in enumerate(zip(found.images, found.target)):
        # Enlarged twice, linearly: written out for one pixel after another.
        large = np.zeros((16, 16))
        for y in range(16):
            for x in range(16):
                down, right = (min(max((n + 0.5) / 2 - 0.5, 0), 7) for n in (y, x))
                top, left = min(int(down), 6), min(int(right), 6)
                a, b = down - top, right - left
                upper = (1 - b) * image[top, left] + b * image[top, left + 1]
                lower = (1 - b) * image[top + 1, left] + b * image[top + 1, left + 1]
                large[y, x] = ((1 - a) * upper + a * lower) / 16
        ink.setdefault((large >= 0.35).tobytes(), (i < 898, set()))[1].add(int(label))
    for split in ("train", "test"):
        for index in range(25):
            scene = digit_scenes.scene(split, index)
            assert scene["image"].shape == (64, 64, 1) and scene["image"].dtype == np.uint8
            np.testing.assert_array_equal(scene["mask"] > 0, scene["instances"] > 0)
            assert 3 <= scene["instances"].max() <= 6
            for number in range(1, scene["instances"].max() + 1):
                mine = scene["instances"] == number
                (label,) = np.unique(scene["mask"][mine])
                seen.add(int(label))
                rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
                shape = mine[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                fits = [
                    key
                    for key, (in_train, labels) in ink.items()
                    if label - 1 in labels and in_train == (split == "train") and contains(key, shape)
                ]
                assert fits, (split, index, number)
    assert seen == set(range(1, 11))


def contains(key, shape) -> bool:
    digit = np.frombuffer(key, bool).reshape(16, 16)
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    return np.array_equal(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], shape)


def test_no_two_scenes_are_the_same(dataset):
    train = dataset.split("train")
    assert len({train.read(i)["image"].tobytes() for i in range(100)}) == 100


def test_it_is_no_classification():
    with pytest.raises(UserError, match="gives each example a mask, and this task learns a label"):
        opened(options.DigitScenes())

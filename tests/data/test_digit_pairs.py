"""Pairs of digits: what they are made of, and that only a wide view tells the classes apart."""

import hashlib
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnnjax.data import digit_pairs
from cnnjax.errors import UserError
from tests.data.sets import opened, options


@pytest.fixture(scope="module")
def dataset():
    return opened(options.DigitPairs())


@pytest.fixture(scope="module")
def train(dataset):
    return dataset.split("train").read(np.arange(2000))


def boxes(image):
    """Of the left and the right of two digits apart: the columns from the first to the last that have ink."""
    columns = np.flatnonzero(image[..., 0].any(0))
    gap = np.argmax(np.diff(columns))
    return (columns[0], columns[gap]), (columns[gap + 1], columns[-1])


def windows(image, side):
    """All windows of a picture padded with zeros as a convolution pads it, sorted: what stands where is lost."""
    padded = np.pad(image[..., 0], side // 2)
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).reshape(-1, side * side)
    return views[np.lexsort(views.T)]


def test_a_scene_is_the_same_for_ever():
    arrays = [digit_pairs.scene(split, i).tobytes() for split, i in (("train", 0), ("train", 3999), ("test", 5))]
    assert hashlib.sha256(b"".join(arrays)).hexdigest() == (
        "7e9ee1d52f01f03695b53ba65c096e3776c29da15ca1f55fa447b96085d84429"
    )


def test_splits(dataset):
    assert dataset.split_sizes == dict(train=4000, test=1000) and dataset.class_names == ("01", "10")
    test = pickle.loads(pickle.dumps(dataset.split("test[10:]")))
    batch = test.read(np.array([3, 0]))
    assert (test.size, batch["image"].dtype, batch["label"].dtype) == (990, np.uint8, np.int32)
    np.testing.assert_array_equal(batch["image"], [digit_pairs.scene("test", 13), digit_pairs.scene("test", 10)])
    np.testing.assert_array_equal(batch["label"], [1, 0])
    assert test.read(np.arange(0))["image"].shape == (0, *dataset.image_shape)
    with pytest.raises(UserError, match="there is no 'tset'"):
        dataset.split("tset")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_0_and_a_1_of_their_own_half_stand_in_the_order_of_the_class(split):
    found = load_digits()
    half = np.arange(1797) < 898 if split == "train" else np.arange(1797) >= 898
    known = [{tuple(d[:, d.any(0)].ravel()) for d in found.images[half & (found.target == k)] * 15} for k in (0, 1)]
    for index in range(40):
        image = digit_pairs.scene(split, index)
        for place, kind in zip(boxes(image), (0, 1) if index % 2 == 0 else (1, 0), strict=True):
            part = image[:, place[0] : place[1] + 1, 0]
            shapes = [part[top : top + 8] for top in range(9) if part[top : top + 8].sum() == part.sum()]
            assert any(tuple(shape[:, shape.any(0)].ravel()) in known[kind] for shape in shapes), (index, kind)


def test_no_window_of_9_columns_tells_the_classes_apart():
    """Scenes 2i and 2i + 1 show the same windows; of 41 columns, both digits fit in one and they differ."""
    for index in range(0, 20, 2):
        ours, theirs = (digit_pairs.scene("train", i) for i in (index, index + 1))
        np.testing.assert_array_equal(windows(ours, 9), windows(theirs, 9))
        assert not np.array_equal(windows(ours, 41), windows(theirs, 41))


def test_neither_digit_is_near_the_other_or_a_border(train):
    places = np.array([boxes(image) for image in train["image"]])
    assert places[:, 0, 0].min() >= 32 and places[:, 1, 1].max() <= 111 - 32
    assert (places[:, 1, 0] - places[:, 0, 1]).min() > 8


def test_places_are_uniform_whatever_the_stride():
    """Of 2,000 pairs each phase of place and distance occurs 31 times on average, +- 5.5."""
    left, right = [], []
    for index in range(0, 4000, 2):
        random = np.random.Generator(np.random.Philox(key=np.array([0, index // 2], np.uint64)))
        left.append(random.integers(32, 40))
        right.append(left[-1] + random.integers(16, 32))
    counts = np.zeros((8, 8), int)
    np.add.at(counts, (np.array(left) % 8, np.array(right) % 8), 1)
    assert counts.min() > 31.25 - 4 * 5.5 and counts.max() < 31.25 + 4 * 5.5


def test_it_has_a_class_a_picture_and_needs_no_preparation():
    with pytest.raises(UserError, match="config.source=digit_pairs gives each example a label"):
        opened(options.DigitPairs(), "mask")
    with pytest.raises(UserError, match="needs no preparation"):
        options.DigitPairs().prepare("")

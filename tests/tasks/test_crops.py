"""Crops of scenes: which part of a picture an example is."""

import numpy as np
import pytest

from cnnjax.data import mirror, pipeline
from cnnjax.data.source import Scenes
from cnnjax.inputs.images.statistics import statistics
from cnnjax.tasks.segmentation.crops import crops


class Numbered:
    """Pictures whose pixels tell where they are: rows in channel 0, columns in channel 1."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __call__(self, i):
        rows, columns = np.indices(self.sizes[i]).astype(np.uint8)
        return dict(image=np.stack([rows, columns, np.full_like(rows, i)], -1), mask=(rows + columns) % 7, other=rows)


def scenes(*sizes):
    sizes = np.array(sizes)
    return Scenes(sizes, tuple(map(str, range(len(sizes)))), Numbered(sizes))


@pytest.mark.parametrize("start, count, length", [(-7, 20, 4), (0, 3, 3), (-2, 5, 1), (5, 4, 2), (-30, 70, 9)])
def test_mirrored_as_numpy_pads(start, count, length):
    before = max(0, -start)
    padded = np.pad(np.arange(length), (before, max(0, start + count - length)), mode="reflect") if length > 1 else None
    wanted = padded[start + before : start + before + count] if length > 1 else np.zeros(count)
    np.testing.assert_array_equal(mirror.mirrored(start, count, length), wanted)


def test_cut_inside_and_beyond():
    array = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(mirror.cut(array, 1, 1, 2, 2), [[5, 6], [9, 10]])
    np.testing.assert_array_equal(mirror.cut(array, -1, 2, 3, 4), [[6, 7, 6, 5], [2, 3, 2, 1], [6, 7, 6, 5]])


def test_an_epoch_covers_each_picture_by_its_area():
    split = crops(scenes((64, 64), (32, 32), (5, 5), (100, 50)), 32, 32)
    assert split.size == 4 + 1 + 1 + 5  # 100 x 50 / 32^2 = 4.88
    assert list(split.draw.pictures) == [0] * 4 + [1, 2] + [3] * 5


def test_a_crop_is_a_part_of_its_picture_and_moves_from_epoch_to_epoch():
    split = crops(scenes((64, 90)), 16, 16)
    batch = split.draw(np.arange(10), np.zeros(10, int), 3)
    assert set(batch) == {"image", "mask"} and batch["image"].shape == (10, 16, 16, 3)
    for image, mask in zip(batch["image"], batch["mask"]):
        top, left = image[0, 0, :2]
        assert 0 <= top <= 48 and 0 <= left <= 74
        rows, columns = np.indices((16, 16))
        np.testing.assert_array_equal(image[..., 0], top + rows)
        np.testing.assert_array_equal(image[..., 1], left + columns)
        np.testing.assert_array_equal(mask, (top + left + rows + columns) % 7)
    again = split.draw(np.arange(10), np.zeros(10, int), 3)["image"]
    np.testing.assert_array_equal(batch["image"], again)
    for other in (split.draw(np.arange(10), np.ones(10, int), 3), split.draw(np.arange(10), np.zeros(10, int), 4)):
        assert (other["image"][:, 0, 0] != again[:, 0, 0]).any(-1).sum() > 5


def test_places_are_uniform():
    split = crops(scenes((12, 9)), 8, 8)
    places = split.draw(np.zeros(3000, int), np.arange(3000), 0)["image"][:, 0, 0, :2]
    counts = np.zeros((5, 2))
    np.add.at(counts, tuple(places.T), 1)
    assert (np.abs(counts - 300) < 5 * 300**0.5).all()  # 5 x 2 places, a deviation is about 16


def test_the_target_stays_inside_and_its_context_is_mirrored():
    split = crops(scenes((20, 20)), 16, 8)
    assert split.size == 6  # 400 / 64
    for image in split.draw(np.zeros(50, int), np.arange(50), 0)["image"]:
        middle = image[4:12, 4:12, 0]
        top = int(middle[0, 0])
        assert 0 <= top <= 12
        np.testing.assert_array_equal(image[:, 5, 0], mirror.mirrored(top - 4, 16, 20))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 8)])
def test_a_small_picture_is_mirrored(size):
    image = crops(scenes(size), 16, 16).draw(np.arange(1), np.arange(1), 0)["image"][0]
    assert image.shape == (16, 16, 3) and set(np.unique(image[..., 0])) <= set(range(size[0]))
    if size[0] == 8:
        assert len(np.unique(image[..., 0])) == 8


def test_a_batch_is_a_function_of_seed_and_number():
    split = crops(scenes((40, 40), (16, 16)), 16, 16)  # 6 + 1 examples
    batch = pipeline.TrainBatch(split, seed=5, batch_size=4)
    images = [batch(step)["image"] for step in range(14)]
    np.testing.assert_array_equal(images[9], pipeline.TrainBatch(split, 5, 4)(9)["image"])
    pictures = np.concatenate([image[:, 0, 0, 2] for image in images])  # 56 = 8 epochs of 7
    assert [int((pictures[7 * n : 7 * n + 7] == 1).sum()) for n in range(8)] == [1] * 8
    assert set(batch(0)) == {"image", "mask", "weight", "position"}


def test_scenes_are_held_in_memory_and_their_statistics_are_of_all_pixels():
    given = scenes((4, 6), (10, 3))
    held = pipeline.in_memory(given)
    assert pipeline.is_held(held) and not pipeline.is_held(given) and pipeline.in_memory(held) is held
    pixels = np.concatenate([given.read(i)["image"].reshape(-1, 3) for i in range(2)]) / 255
    found = statistics(held)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-6)
    assert pipeline.megabytes(given, (0, 0, 3), np.uint8) == (24 + 30) * (3 + 1 + 2 + 4) / 2**20


def test_streamed_crops_equal_those_in_memory():
    given = scenes((40, 40), (16, 30))
    held = crops(pipeline.in_memory(given), 16, 16, held=True)
    streamed = crops(given, 16, 16, held=False)
    both = []
    for split in (held, streamed):
        with pipeline.batches(pipeline.TrainBatch(split, 2, 4), 3, 9) as batches:
            both.append([batch for batch in batches])
    assert len(both[0]) == len(both[1]) == 6
    for first, second in zip(*both):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])

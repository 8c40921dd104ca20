"""Sets of tfds with masks."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.source import IGNORED
from cnnjax.errors import RunError, UserError
from tests.data.sets import opened, options
from tests.data.test_tfds_source import png, write_set

RANDOM = np.random.default_rng(0)
SIZES = [(7, 9), (12, 5), (6, 6), (8, 4), (5, 5)]


def features(image_shape=(None, None, 3), **more):
    from tensorflow_datasets import features as tfds

    return (
        dict(
            image=tfds.Image(shape=image_shape, encoding_format="png"),
            segmentation_mask=tfds.Image(shape=(None, None, 1), encoding_format="png"),
            label=tfds.ClassLabel(num_classes=37),
        )
        | more
    )


def examples(values=(1, 2, 3), sizes=SIZES, mask_sizes=None):
    """Pictures and masks as oxford_iiit_pet has them."""
    found = []
    for size, mask_size in zip(sizes, mask_sizes or sizes):
        image = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
        found.append((image, RANDOM.choice(values, mask_size).astype(np.uint8)))
    return found


def written(root, found, **more):
    write_set(root, [dict(image=png(i), segmentation_mask=png(m), label=3) for i, m in found], features(), **more)
    return options.Tfds(set="toy", dir=str(root))


def test_pictures_and_masks_of_their_own_sizes(tmp_path):
    found = examples()
    data = written(tmp_path, found, shard_lengths=[2, 3])
    dataset = opened(data, "mask")
    assert dataset.class_names == ("1", "2", "3") and dataset.image_shape == (0, 0, 3) and not dataset.has_objects
    scenes = pickle.loads(pickle.dumps(dataset.split("train")))
    np.testing.assert_array_equal(scenes.sizes, SIZES)
    for i, (image, mask) in enumerate(found):
        scene = scenes.read(i)
        np.testing.assert_array_equal(scene["image"], image)
        np.testing.assert_array_equal(scene["mask"], mask - 1)
    part = dataset.split("train[1:4]")
    np.testing.assert_array_equal(part.sizes, SIZES[1:4])
    np.testing.assert_array_equal(part.read(2)["image"], found[3][0])


def test_a_legend_and_pixels_that_do_not_count(tmp_path):
    found = examples(values=(1, 2, 7))
    data = written(tmp_path, found)
    (tmp_path / "legend.json").write_text('{"other": 2, "pet": 1}')
    data.legend, data.ignore = str(tmp_path / "legend.json"), 7
    dataset = opened(data, "mask")
    assert dataset.class_names == ("other", "pet")
    mask = dataset.split("train").read(0)["mask"]
    np.testing.assert_array_equal(mask, np.select([found[0][1] == 2, found[0][1] == 1], [0, 1], IGNORED))
    data.ignore = -1
    with pytest.raises(UserError, match="has pixels of 7, which is no class"):
        opened(data, "mask")


def test_grey_where_it_is_asked_for(tmp_path):
    data = written(tmp_path, examples())
    assert opened(data, "mask", channels=1).split("train").read(0)["image"].shape == (7, 9, 1)


def test_what_is_wrong_is_said(tmp_path):
    data = written(tmp_path / "a", examples(mask_sizes=[(7, 9), (12, 6), (6, 6), (8, 4), (5, 5)]))
    scenes = opened(data, "mask").split("train")
    with pytest.raises(RunError, match="Example 1 in .* the picture is 5x12 pixels, its mask 6x12"):
        scenes.read(1)
    with pytest.raises(UserError, match="config.input.size must be 0"):
        opened(data, "mask", size=64)
    found = [dict(image=png(i), label=3) for i, _ in examples()]
    plain = {k: f for k, f in features().items() if k != "segmentation_mask"}
    write_set(tmp_path / "b", found, plain)
    with pytest.raises(UserError, match=r"toy has image \(Image\), label \(ClassLabel\): not one picture and one mask"):
        opened(options.Tfds(set="toy", dir=str(tmp_path / "b")), "mask")
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "gif")
    found = [dict(image=png(i), segmentation_mask=file.getvalue(), label=3) for i, _ in examples()]
    write_set(tmp_path / "c", found, features())
    with pytest.raises(RunError, match="A mask of the set is not a picture"):
        opened(options.Tfds(set="toy", dir=str(tmp_path / "c")), "mask")


def test_digits_have_one_class_a_picture():
    with pytest.raises(UserError, match="config.source=digits gives each example a label"):
        opened(options.Digits(), "mask")

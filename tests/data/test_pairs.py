"""Pictures with masks in folders: layouts, what a mask's pixels stand for, and every message."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.source import IGNORED
from cnnjax.errors import RunError, UserError
from tests.data.sets import opened_folder, options

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))


def save(path: Path, pixels: np.ndarray, palette=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
        image.putpalette(palette)
    image.save(path)


def picture(height=6, width=8) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask_of(height=6, width=8, values=(0, 255), dtype=np.uint8) -> np.ndarray:
    mask = RANDOM.choice(values, (height, width)).astype(dtype)
    mask.flat[: len(values)] = values  # each occurs
    return mask


def write_pairs(root: Path, count=5, images="images", masks="masks", **options) -> dict[str, tuple]:
    """`count` pairs of different sizes -> {name: (picture, mask)}."""
    written = {}
    for i in range(count):
        image, mask = picture(6 + i), mask_of(6 + i, **options)
        save(root / images / f"{i}.png", image)
        save(root / masks / f"{i}.png", mask)
        written[f"{i}.png"] = image, mask
    return written


def opened(root: Path, **knobs):
    return opened_folder(options.MaskFolder, root, **knobs)


def message(root: Path, **knobs) -> str:
    with pytest.raises(UserError) as raised:
        opened(root, **knobs)
    assert str(raised.value).count("\n") <= 1
    return str(raised.value)


def contents(dataset) -> dict[str, dict]:
    scenes = dataset.split("all")
    return {name: scenes.read(i) for i, name in enumerate(scenes.names)}


class TestLayouts:
    def test_two_folders(self, tmp_path):
        written = write_pairs(tmp_path)
        dataset = opened(tmp_path)
        assert dataset.split_sizes == dict(train=4, test=1) and dataset.image_shape == (0, 0, 3)
        assert dataset.class_names == ("background", "object")
        for name, scene in contents(dataset).items():
            image, mask = written[name]
            np.testing.assert_array_equal(scene["image"], image)
            np.testing.assert_array_equal(scene["mask"], mask > 0)
        scenes = dataset.split("train")
        np.testing.assert_array_equal(scenes.sizes, [scenes.read(i)["mask"].shape for i in range(4)])
        assert pickle.loads(pickle.dumps(scenes)).read(2)["image"].shape == scenes.read(2)["image"].shape

    def test_beside_each_other(self, tmp_path):
        for i in range(3):
            save(tmp_path / "cells" / f"{i}.jpg", picture())
            save(tmp_path / "cells" / f"{i}_mask.png", mask_of())
        assert set(contents(opened(tmp_path))) == {f"cells/{i}.jpg" for i in range(3)}

    def test_train_and_test(self, tmp_path):
        write_pairs(tmp_path / "train", 3)
        write_pairs(tmp_path / "test", 2, "imgs", "labels")
        dataset = opened(tmp_path)
        assert dataset.split_sizes == dict(train=3, test=2)

    def test_folders_anywhere_and_names_that_are_test(self, tmp_path):
        write_pairs(tmp_path, 12, "a/pictures", "b/truth")
        knobs = dict(masks=str(tmp_path / "b/truth"), test_files="1*,7.png")
        dataset = opened(tmp_path / "a/pictures", **knobs)
        assert sorted(dataset.split("test").names) == ["1.png", "10.png", "11.png", "7.png"]
        assert dataset.split_sizes["train"] == 8

    def test_the_order_depends_on_names_alone(self, tmp_path):
        write_pairs(tmp_path / "a", 9)
        write_pairs(tmp_path / "b", 9)
        first, second = (opened(tmp_path / name).split("all").names for name in "ab")
        assert first == second and first != tuple(sorted(first))

    def test_the_fingerprint_is_of_pictures_and_masks(self, tmp_path):
        written = write_pairs(tmp_path)
        before = opened(tmp_path).fingerprint
        assert opened(tmp_path).fingerprint == before
        save(tmp_path / "masks" / "3.png", 255 - written["3.png"][1])
        assert opened(tmp_path).fingerprint != before


class TestKinds:
    @pytest.mark.parametrize("values", [(0, 1), (0, 255)])
    def test_binary(self, tmp_path, values):
        written = write_pairs(tmp_path, values=values)
        dataset = opened(tmp_path)
        assert dataset.class_names == ("background", "object") and "read as binary" in dataset.notes[0]
        np.testing.assert_array_equal(contents(dataset)["2.png"]["mask"], written["2.png"][1] > 0)

    def test_one_bit(self, tmp_path):
        for i in range(2):
            save(tmp_path / "images" / f"{i}.png", picture())
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask_of() > 0).save(tmp_path / "masks" / f"{i}.png")
        assert set(np.unique(contents(opened(tmp_path))["0.png"]["mask"])) == {0, 1}

    def test_index(self, tmp_path):
        written = write_pairs(tmp_path, values=(0, 1, 3))
        dataset = opened(tmp_path)
        assert dataset.class_names == ("0", "1", "2", "3")
        assert "Classes that no mask of train holds: 2." in dataset.notes
        np.testing.assert_array_equal(contents(dataset)["1.png"]["mask"], written["1.png"][1])

    def test_index_with_a_legend(self, tmp_path):
        written = write_pairs(tmp_path, values=(10, 20, 99))
        (tmp_path / "legend.json").write_text(json.dumps(dict(sky=20, road=10)))
        dataset = opened(tmp_path, legend=str(tmp_path / "legend.json"), ignore=99)
        assert dataset.class_names == ("sky", "road")
        mask = written["4.png"][1]
        wanted = np.select([mask == 20, mask == 10], [0, 1], IGNORED)
        np.testing.assert_array_equal(contents(dataset)["4.png"]["mask"], wanted)

    def test_palette(self, tmp_path):
        for i in range(2):
            save(tmp_path / "images" / f"{i}.png", picture())
            save(tmp_path / "masks" / f"{i}.png", mask_of(values=(0, 1, 2)), palette=[9, 9, 9, 200, 0, 0, 0, 0, 200])
        dataset = opened(tmp_path)
        assert dataset.class_names == ("0", "1", "2") and set(np.unique(contents(dataset)["0.png"]["mask"])) == {
            0,
            1,
            2,
        }

    def test_colour(self, tmp_path):
        colours = np.array([[0, 0, 0], [128, 64, 128], [255, 255, 255]], np.uint8)
        truth = mask_of(values=(0, 1, 2))
        for i in range(2):
            save(tmp_path / "images" / f"{i}.png", picture())
            save(tmp_path / "masks" / f"{i}.png", colours[truth])
        (tmp_path / "legend.json").write_text(json.dumps(dict(road=[128, 64, 128], none=[0, 0, 0])))
        knobs = dict(legend=str(tmp_path / "legend.json"))
        assert "need a legend" in message(tmp_path)
        assert "has pixels of #ffffff, which is no class (road, none)" in message(tmp_path, **knobs)
        (tmp_path / "legend.json").write_text(json.dumps(dict(road=[128, 64, 128], none=[0, 0, 0], line=[255] * 3)))
        np.testing.assert_array_equal(contents(opened(tmp_path, **knobs))["0.png"]["mask"], np.array([1, 0, 2])[truth])

    def test_instances(self, tmp_path):
        written = write_pairs(tmp_path, values=(0, 1, 300, 7), dtype=np.uint16)
        dataset = opened(tmp_path)
        assert dataset.has_objects and dataset.class_names == ("background", "object")
        scene = contents(dataset)["0.png"]
        np.testing.assert_array_equal(scene["instances"], written["0.png"][1])
        np.testing.assert_array_equal(scene["mask"], written["0.png"][1] > 0)
        assert scene["instances"].dtype == np.uint16
        ignoring = contents(opened(tmp_path, ignore=300))["0.png"]
        assert (ignoring["mask"][written["0.png"][1] == 300] == IGNORED).all()
        assert (ignoring["instances"][written["0.png"][1] == 300] == 0).all()

    def test_instances_of_8_bits_must_be_named(self, tmp_path):
        write_pairs(tmp_path, values=(0, 1, 2, 3))
        assert not opened(tmp_path).has_objects and opened(tmp_path, mask_kind="instances").has_objects

    def legend(self, root, **values):
        (root / "legend.json").write_text(json.dumps(values))
        return dict(legend=str(root / "legend.json"))

    @pytest.mark.parametrize("kind", ["auto", "binary"])
    def test_binary_with_a_legend(self, tmp_path, kind):
        written = write_pairs(tmp_path)
        dataset = opened(tmp_path, mask_kind=kind, **self.legend(tmp_path, cell=255, background=0))
        assert dataset.class_names == ("background", "cell")
        np.testing.assert_array_equal(contents(dataset)["2.png"]["mask"], written["2.png"][1] > 0)
        wrong = self.legend(tmp_path, a=3, b=9)
        assert "names the values 0 and 255, not a 3, b 9" in message(tmp_path, mask_kind="binary", **wrong)
        assert "has pixels of 0, which is no class (a, b)" in message(tmp_path, **wrong)

    @pytest.mark.parametrize("values", [(0, 1), (0, 2)])
    def test_a_legend_decides_whichever_classes_occur(self, tmp_path, values):
        written = write_pairs(tmp_path, values=values)
        dataset = opened(tmp_path, **self.legend(tmp_path, ground=0, a=1, b=2))
        assert dataset.class_names == ("ground", "a", "b")
        np.testing.assert_array_equal(contents(dataset)["2.png"]["mask"], written["2.png"][1])

    def test_other_masks_have_the_classes_of_known_ones(self, tmp_path):
        write_pairs(tmp_path / "train", values=(0, 1, 2))
        written = write_pairs(tmp_path / "other", values=(0, 1))
        known = opened(tmp_path / "train").mask_code
        dataset = opened(tmp_path / "other", known=known)
        assert dataset.class_names == ("0", "1", "2") and opened(tmp_path / "other").class_names == (
            "background",
            "object",
        )
        np.testing.assert_array_equal(contents(dataset)["1.png"]["mask"], written["1.png"][1])
        write_pairs(tmp_path / "other", values=(0, 0))
        assert opened(tmp_path / "other", known=known).class_names == ("0", "1", "2")

    def test_grey_and_palettes_among_colours(self, tmp_path):
        colours = np.array([[0, 0, 0], [255, 255, 255], [0, 0, 255]], np.uint8)
        truth = mask_of(values=(0, 1, 2))
        for i in range(3):
            save(tmp_path / "images" / f"{i}.png", picture())
        save(tmp_path / "masks" / "0.png", colours[truth])
        save(tmp_path / "masks" / "1.png", truth, palette=list(colours.ravel()))
        save(tmp_path / "masks" / "2.png", np.where(truth == 1, 255, 0).astype(np.uint8))
        found = contents(opened(tmp_path, **self.legend(tmp_path, none=[0] * 3, white=[255] * 3, blue=[0, 0, 255])))
        for name in ("0.png", "1.png"):
            np.testing.assert_array_equal(found[name]["mask"], truth)
        np.testing.assert_array_equal(found["2.png"]["mask"], truth == 1)

    def test_grey_in_three_channels(self, tmp_path):
        for i in range(3):
            save(tmp_path / "images" / f"{i}.png", picture())
            mask = mask_of()
            save(tmp_path / "masks" / f"{i}.png", np.repeat(mask[..., None], 3, -1))
        dataset = opened(tmp_path)
        assert "read as binary" in dataset.notes[0]
        np.testing.assert_array_equal(contents(dataset)["2.png"]["mask"], mask > 0)

    def test_two_ways_of_two_values(self, tmp_path):
        for i in range(4):
            save(tmp_path / "images" / f"{i}.png", picture())
            save(tmp_path / "masks" / f"{i}.png", mask_of(values=((0, 1), (0, 255))[i % 2]))
        text = message(tmp_path)
        assert "of 0 and 1, others of 0 and 255" in text and "--config.source.mask_kind=binary" in text
        assert opened(tmp_path, mask_kind="binary").class_names == ("background", "object")


class TestMessages:
    def test_halves(self, tmp_path):
        write_pairs(tmp_path)
        save(tmp_path / "images" / "more.png", picture())
        save(tmp_path / "masks" / "other.png", mask_of())
        text = message(tmp_path)
        assert "picture more.png has no mask; mask other.png has no picture" in text

    def test_sizes_and_damage(self, tmp_path):
        write_pairs(tmp_path, 8)
        save(tmp_path / "masks" / "2.png", mask_of(9, 9))
        data = (tmp_path / "images" / "5.png").read_bytes()
        (tmp_path / "images" / "5.png").write_bytes(data[: len(data) // 2])
        (tmp_path / "masks" / "6.png").write_bytes(b"")
        save(tmp_path / "images" / "7.png", picture(1, 1))
        text = message(tmp_path)
        assert "4 of 16 files" in text and "2.png is 8x8 pixels, its mask 9x9" in text
        assert "5.png is truncated" in text and "6.png is empty (0 bytes)" in text and "7.png is 1x1" in text
        dataset = opened(tmp_path, skip_bad_files=True)
        assert sum(dataset.split_sizes.values()) == 4 and "4 of 16 files cannot be used" in dataset.notes[1]

    def test_values(self, tmp_path):
        write_pairs(tmp_path, values=(0, 1, 17))
        text = message(tmp_path, mask_kind="binary")
        assert "has pixels of 17, which is no class (background, object)" in text
        write_pairs(tmp_path, values=(0, 1, 255))
        assert "--config.source.ignore=VALUE" in message(tmp_path)
        assert opened(tmp_path, ignore=255).class_names == ("background", "object")

    def test_nothing_to_learn(self, tmp_path):
        write_pairs(tmp_path, values=(0,))
        assert "hold nothing but background: there is nothing to learn" in message(tmp_path)

    @pytest.mark.parametrize(
        "legend, says",
        [
            ("{", "must be JSON"),
            ("[1, 2]", "must be JSON"),
            ('{"a": 1, "b": [1, 2, 3]}', "must be JSON"),
            ('{"a": [1, 2, 300], "b": [0, 0, 0]}', "must be JSON"),
            ('{"a": true, "b": 2}', "must be JSON"),
            ('{"a": 1}', "names 1 classes"),
            ('{"a": 1, "b": 1}', "gives 'a' and 'b' the same value"),
            ('{"a": [0, 0, 0], "b": [1, 1, 1]}', "which is no class"),
        ],
    )
    def test_legends(self, tmp_path, legend, says):
        write_pairs(tmp_path)
        (tmp_path / "legend.json").write_text(legend)
        assert says in message(tmp_path, legend=str(tmp_path / "legend.json"))
        assert "cannot be read" in message(tmp_path, legend=str(tmp_path / "none.json"))

    def test_folders(self, tmp_path):
        assert "Which folder" in message("")
        assert "does not exist" in message(tmp_path / "none")
        write_pairs(tmp_path / "one", 1)
        assert "There is one pair" in message(tmp_path / "one")
        write_pairs(tmp_path / "many", 3)
        assert "does not exist" in message(tmp_path / "many/images", masks=str(tmp_path / "none"))
        assert "fits none of the 3" in message(tmp_path / "many", test_files="z*")
        assert "holds no masks" in message(tmp_path / "many/images")
        assert "config.input.size must be 0" in message(tmp_path / "many", size=8)
        save(tmp_path / "many/images/1.jpg", picture())
        assert "1.jpg and 1.png in" in message(tmp_path / "many") and "keep one" in message(tmp_path / "many")
        (tmp_path / "empty/images").mkdir(parents=True)
        (tmp_path / "empty/masks").mkdir()
        assert "There are no pictures" in message(tmp_path / "empty")

    def test_what_changes_later(self, tmp_path):
        write_pairs(tmp_path)
        scenes = opened(tmp_path).split("train")
        (tmp_path / "masks" / scenes.names[0]).unlink()
        with pytest.raises(RunError, match="It could be read when the run started"):
            scenes.read(0)


REAL = os.environ.get("CNNJAX_DATA_DIR", "")


@pytest.mark.parametrize(
    "name, images, masks, test_files, sizes, kind",
    [
        ("dsb2018_nuclei", "images", "instances_u16", "0*,1*,2*", dict(train=535, test=129), True),
        ("isbi2012_em", "train/image", "train/label", "2[4-9].png", dict(train=24, test=6), False),
    ],
)
def test_real_sets(name, images, masks, test_files, sizes, kind):
    root = Path(REAL, name)
    if not REAL or not root.is_dir():
        pytest.skip(f"CNNJAX_DATA_DIR is not set, or holds no {name}")
    dataset = opened(root / images, masks=str(root / masks), test_files=test_files)
    assert dataset.split_sizes == sizes and dataset.has_objects == kind

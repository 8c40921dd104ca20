"""Folders of pictures as data sets: layouts, splits, what is remembered, and every message."""

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjax.cache import cache_dir
from cnnjax.data import folder, picture_scan, split_spec
from cnnjax.data.folder import list_pictures
from cnnjax.errors import RunError, UserError
from cnnjax.inputs.images import decoding
from tests.data.sets import opened_folder, options


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def write(path, shape=(6, 8, 3), value=None):
    """A picture of one value, or of noise that depends on its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list("/".join(path.parts[-3:]).encode())
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise if value is None else np.full(shape, value, np.uint8)).save(path)


def write_classes(root, counts=(("cat", 10), ("dog", 5)), **options):
    for name, count in dict(counts).items():
        for i in range(count):
            write(root / name / f"{i}.png", **options)


def opened(root, **knobs):
    return opened_folder(options.ClassFolder, root, **knobs)


def message(root, **knobs) -> str:
    with pytest.raises(UserError) as raised:
        opened(root, **knobs)
    assert str(raised.value).count("\n") <= 1
    return str(raised.value)


def everything(dataset, spec="all"):
    split = dataset.split(spec)
    return split.read(np.arange(split.size))


# Layouts


def test_train_and_test(root):
    write_classes(root / "train")
    write_classes(root / "test", (("cat", 2), ("dog", 3)))
    dataset = opened(root)
    assert dataset.name == "folder" and dataset.class_names == ("cat", "dog") and dataset.notes == ()
    assert dataset.split_sizes == {"train": 15, "test": 5}
    assert dataset.image_shape == (6, 8, 3) and dataset.dtype == np.uint8
    batch = everything(dataset, "test")
    assert batch["image"].shape == (5, 6, 8, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32 and sorted(batch["label"]) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_validation(root, validation):
    for name in ("Train", "Testing", validation):
        write_classes(root / name, (("cat", 2), ("dog", 1)))
    assert opened(root).split_sizes == {"train": 3, "validation": 3, "test": 3}


def test_train_and_validation_without_test(root):
    write_classes(root / "train")
    write_classes(root / "val")
    dataset = opened(root)
    with pytest.raises(UserError, match="there is no 'test'. The splits are: train, validation"):
        dataset.split("test")


def test_classes_alone_are_cut(root):
    write_classes(root, (("a", 40), ("b", 10)))
    dataset = opened(root, test_fraction=0.3)
    assert dataset.split_sizes == {"train": 35, "test": 15}
    assert np.bincount(everything(dataset, "test")["label"]).tolist() == [12, 3]


def test_the_cut_keeps_every_picture_once(root):
    write_classes(root, shape=(4, 4))
    images = [everything(opened(root), spec)["image"] for spec in ("train", "test")]
    stored = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.png")}
    assert {image.tobytes() for image in np.concatenate(images)} == stored and len(stored) == 15


def test_the_cut_is_the_same_elsewhere_and_hardly_moved_by_one_more(root, tmp_path):
    write_classes(root, (("a", 40), ("b", 40)))
    before = opened(root)
    names = [before.split("all").read.read.files[i] for i in split_spec.indices("test", before.split_sizes)]
    shutil.copytree(root, tmp_path / "moved")
    moved = opened(tmp_path / "moved")
    np.testing.assert_array_equal(everything(before, "test")["image"], everything(moved, "test")["image"])
    write(root / "a" / "new.png")
    after = opened(root)
    changed = [after.split("all").read.read.files[i] for i in split_spec.indices("test", after.split_sizes)]
    assert len(set(names) ^ set(changed)) <= 2


def test_a_class_of_one_picture_is_learnt_but_not_tested(root):
    write_classes(root, (("a", 5), ("b", 1), ("c", 5)))
    dataset = opened(root, test_fraction=0.9)
    assert dataset.notes == ("Classes of one picture, which are missing from test: b.",)
    assert dataset.class_names == ("a", "b", "c")
    assert np.bincount(everything(dataset, "train")["label"]).tolist() == [1, 1, 1]


def test_splits_are_mixed(root):
    write_classes(root, (("a", 50), ("b", 50)))
    labels = everything(opened(root), "train[:50%]")["label"]
    assert 10 < labels.sum() < 30


def test_labels_follow_pictures(root):
    for value, name in enumerate(("a", "b", "c")):
        write_classes(root, ((name, 6),), value=value * 50)
    batch = everything(opened(root))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"] * 50)


def test_which_files_count(root):
    write(root / "a" / "UPPER.PNG")
    write(root / "a" / "deep" / "er" / "1.jpeg")
    write(root / "a" / ".hidden.png")
    write(root / "a" / ".hidden" / "1.png")
    write(root / ".thumbnails" / "1.png")
    write(root / "__MACOSX" / "a" / "1.png")
    (root / "a" / "notes.txt").write_text("no picture")
    write(root.parent / "elsewhere" / "1.webp")
    (root / "b").symlink_to(root.parent / "elsewhere")
    (root / "b" / "link.png").symlink_to(root / "a" / "UPPER.PNG")
    (root / "b" / "loop").symlink_to(root / "b")
    dataset = opened(root)
    assert sum(dataset.split_sizes.values()) == 4 and dataset.class_names == ("a", "b")
    assert dataset.notes == ()


def test_what_lies_beside_is_named(root):
    write_classes(root / "train")
    write_classes(root / "test")
    write(root / "masks" / "1.png")
    write(root / "loose.png")
    notes = opened(root).notes
    assert "masks" in notes[0] and "loose.png" in notes[1]


def test_classes_named_train_and_bus(root):
    write_classes(root, (("bus", 4), ("train", 4)))
    assert opened(root).class_names == ("bus", "train")


# Wrong layouts


def test_no_folder_given():
    assert "--config.source.dir=DIR" in message("")


def test_missing_folder(root):
    assert "none (config.source.dir) does not exist" in message(root / "none")
    (root / "file").write_text("")
    assert "is a file, not a folder" in message(root / "file")


def test_empty_folder(root):
    assert "holds no folders" in message(root) and "Expected: DIR/CLASS" in message(root)


def test_single_class(root):
    write_classes(root, (("cat", 3),))
    assert "only one class folder, cat: at least two classes" in message(root)
    os.rename(root / "cat", root / "train")
    (root / "test").mkdir()
    assert "no class folders" in message(root)


def test_train_alone(root):
    write_classes(root / "train")
    assert f"give {root / 'train'}, to have it cut off there" in message(root)
    assert opened(root / "train").split_sizes == {"train": 12, "test": 3}


def test_two_folders_for_a_split(root):
    for name in ("train", "test", "val", "validation"):
        write_classes(root / name)
    assert "several folders for validation: val, validation" in message(root)


def test_class_without_pictures(root):
    write_classes(root)
    (root / "fish").mkdir()
    assert f"{root / 'fish'} holds no pictures. Remove it" in message(root)
    (root / "fish" / "1.gif").write_text("")
    (root / "fish" / "2.gif").write_text("")
    assert "holds no pictures, only 2 other files." in message(root)


def test_class_missing_from_test(root):
    write_classes(root / "train", (("a", 2), ("b", 2)))
    write_classes(root / "test", (("a", 2),))
    assert f"Class 'b' has no pictures in test, in {root}" in message(root)


def test_class_missing_from_train(root):
    write_classes(root / "train", (("a", 2), ("b", 2)))
    write_classes(root / "test", (("a", 2), ("b", 2), ("c", 2)))
    assert "Class 'c' is in test but not in train" in message(root)


def test_two_channels(root):
    write_classes(root)
    assert "config.input.channels must be 0 (as stored), 1 or 3" in message(root, channels=2)


def test_folder_without_permission(root, monkeypatch):
    write_classes(root)

    def scandir(path):  # root may read everything, so permissions cannot be used here
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(picture_scan.os, "scandir", scandir)
    assert message(root) == f"The folder {root} cannot be read: Permission denied."


# Shapes


def test_grey_if_all_are_grey(root):
    write_classes(root, shape=(6, 6))
    assert opened(root).image_shape == (6, 6, 1)
    assert opened(root, channels=3).image_shape == (6, 6, 3)
    write(root / "cat" / "colour.png", (6, 6, 3))
    assert opened(root).image_shape == (6, 6, 3)
    assert everything(opened(root, channels=1))["image"].shape == (16, 6, 6, 1)


def test_mixed_sizes(root):
    write_classes(root)
    write(root / "cat" / "large.png", (30, 20, 3))
    dataset = opened(root)
    assert dataset.image_shape == (128, 128, 3)
    assert "2 sizes and were brought to 128x128 (crop); --config.input.size=N" in dataset.notes[0]
    assert everything(dataset)["image"].shape == (16, 128, 128, 3)


def test_size_as_asked(root):
    write_classes(root, value=100)
    dataset = opened(root, size=16, resize="pad")
    assert dataset.image_shape == (16, 16, 3) and dataset.notes == ()
    image = everything(dataset)["image"][0, ..., 0]
    assert (image[:2] == 0).all() and (image[2:14] == 100).all() and (image[14:] == 0).all()


def test_orientation_counts_for_the_common_size(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a/1.png", "b/1.png"):
        write(root / name, (6, 8, 3))
    Image.new("RGB", (6, 8)).save(root / "a" / "turned.png", exif=exif)  # upright: 6 high, 8 wide
    assert opened(root).image_shape == (6, 8, 3)


# Bad pictures


def spoil(root, count):
    for i in range(count):
        (root / "cat" / f"bad{i}.png").write_bytes(b"" if i else b"hello")


def test_bad_pictures_are_named(root):
    write_classes(root)
    spoil(root, 2)
    assert message(root) == (
        f"2 of 17 pictures in {root} cannot be used: cat/bad0.png is not a picture (PNG, JPEG, BMP, WebP or TIFF); "
        "cat/bad1.png is empty (0 bytes).\n--config.source.skip_bad_files=true leaves them out."
    )


def test_many_bad_pictures_are_counted(root):
    write_classes(root)
    spoil(root, 9)
    text = message(root)
    assert "cat/bad4.png" in text and "cat/bad5.png" not in text and "; and 4 more." in text


def test_bad_pictures_are_left_out(root):
    write_classes(root)
    spoil(root, 7)
    (root / "cat" / "gone.png").symlink_to(root / "nowhere")
    dataset = opened(root, skip_bad_files=True)
    assert sum(dataset.split_sizes.values()) == 15
    (note,) = dataset.notes
    assert note.startswith("8 of 23 pictures cannot be used and were left out: cat/bad0.png is not")
    assert note.endswith("cat/bad4.png is empty (0 bytes); and 3 more.")
    found, faults = folder.scan(root, ["cat/1.png", "cat/gone.png"])
    assert found["cat/1.png"][1:] == (6, 8, 3)
    assert faults == {"cat/gone.png": "cannot be read: No such file or directory"}


def test_a_class_of_bad_pictures_alone(root):
    write_classes(root)
    (root / "fish").mkdir()
    (root / "fish" / "1.png").write_bytes(b"")
    assert "Class 'fish' has no pictures that can be read" in message(root, skip_bad_files=True)


# What is remembered


@pytest.fixture
def probed(monkeypatch):
    calls, probe = [], decoding.probe

    def counting(source):
        calls.append(source)
        return probe(source)

    monkeypatch.setattr(decoding, "probe", counting)
    return calls


def memory_file():
    (path,) = cache_dir("folders").iterdir()
    return path


def test_the_second_scan_decodes_nothing(root, probed):
    write_classes(root)
    first = opened(root)
    assert len(probed) == 15
    second = opened(root)
    assert len(probed) == 15 and second.fingerprint == first.fingerprint
    assert second.image_shape == first.image_shape
    assert memory_file().name.endswith(".json") and cache_dir("folders").stat().st_mode & 0o777 == 0o700


def test_changed_and_new_files_are_decoded_again(root, probed):
    write_classes(root)
    opened(root)
    write(root / "cat" / "new.png")
    os.utime(root / "dog" / "1.png", ns=(1, 1))
    opened(root)
    assert len(probed) == 17
    (root / "dog" / "1.png").unlink()
    opened(root)
    assert len(probed) == 17 and "dog/1.png" not in json.loads(memory_file().read_text())["files"]


def test_bad_pictures_are_not_remembered(root, probed):
    write_classes(root)
    spoil(root, 1)
    for count in (16, 17):
        message(root)
        assert len(probed) == count


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"reader": "another", "files": {}}', "[" * 100_000])
def test_a_damaged_memory_is_ignored(root, probed, text):
    write_classes(root)
    fingerprint = opened(root).fingerprint
    memory_file().write_text(text)
    assert opened(root).fingerprint == fingerprint and len(probed) == 30
    opened(root)
    assert len(probed) == 30


def test_damaged_entries_are_ignored(root, probed):
    write_classes(root)
    opened(root)
    stored = json.loads(memory_file().read_text())
    stored["files"]["cat/1.png"] = "nonsense"
    stored["files"]["cat/2.png"][3] = "6"
    memory_file().write_text(json.dumps(stored))
    assert opened(root).image_shape == (6, 8, 3) and len(probed) == 17


def test_no_place_to_remember(root, probed, tmp_path, monkeypatch):
    write_classes(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    opened(root)
    opened(root)
    assert len(probed) == 30


def test_an_interrupted_scan_keeps_what_it_found(root, monkeypatch):
    write_classes(root)
    look = picture_scan._look

    def interrupted(path, entry):
        if path.name == "4.png" and path.parent.name == "dog":
            raise KeyboardInterrupt
        return look(path, entry)

    monkeypatch.setattr(picture_scan, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(root)
    assert len(json.loads(memory_file().read_text())["files"]) == 14


def test_fingerprint(root, tmp_path):
    write_classes(root)
    before = opened(root).fingerprint
    shutil.copytree(root, tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint == before
    write(root / "cat" / "1.png", value=3)
    changed = opened(root).fingerprint
    os.rename(root / "cat" / "1.png", root / "dog" / "one.png")
    assert len({before, changed, opened(root).fingerprint}) == 3


# Reading


def test_read_in_any_order_after_pickling(root):
    write_classes(root)
    split = opened(root).split("train")
    batch = pickle.loads(pickle.dumps(split.read))(np.array([3, 0, 3]))
    whole = split.read(np.arange(split.size))
    np.testing.assert_array_equal(batch["image"], whole["image"][[3, 0, 3]])
    np.testing.assert_array_equal(batch["label"], whole["label"][[3, 0, 3]])
    assert split.read(np.array([], int))["image"].shape == (0, 6, 8, 3)


def test_threads_read_the_same(root, monkeypatch):
    write_classes(root, shape=(120, 110, 3))
    monkeypatch.setattr(folder, "cores", lambda: 4)
    threaded = everything(opened(root))
    monkeypatch.setattr(folder, "cores", lambda: 1)
    alone = everything(opened(root))
    np.testing.assert_array_equal(threaded["image"], alone["image"])
    np.testing.assert_array_equal(threaded["label"], alone["label"])


def test_a_relative_folder_is_found_from_elsewhere(root, monkeypatch):
    write_classes(root)
    monkeypatch.chdir(root.parent)
    dataset = opened("pictures")
    monkeypatch.chdir(root)
    assert everything(dataset)["image"].shape[0] == 15


@pytest.mark.parametrize("shape", [(6, 8, 3), (120, 110, 3)])  # read by one thread, by several
def test_pictures_that_go_bad_during_a_run(root, shape):
    write_classes(root, shape=shape)
    dataset = opened(root)
    (root / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(RunError, match=r"cat/1.png is empty \(0 bytes\). It could be read when the run started."):
        everything(dataset)
    write(root / "cat" / "1.png", (4, 5, 3))
    with pytest.raises(RunError, match="cat/1.png is now 5x4 pixels"):
        everything(dataset)
    (root / "cat" / "1.png").unlink()
    with pytest.raises(RunError, match="cat/1.png cannot be read: No such file"):
        everything(dataset)


def test_list_pictures(root):
    write_classes(root, (("b", 2), ("a", 1)))
    (root / "a" / "note.txt").write_text("")
    (root / "odd.gif").write_text("")
    listed = list_pictures([root / "odd.gif", str(root)])
    assert listed == [root / name for name in ("odd.gif", "a/0.png", "b/0.png", "b/1.png")]
    with pytest.raises(UserError, match="There is no file or folder .*none"):
        list_pictures([root / "none"])
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="There are no pictures .* in .*empty"):
        list_pictures([root / "empty"])


# The cache


def test_cache_dir(tmp_path, monkeypatch):
    assert cache_dir("a", "b") == tmp_path / "cache" / "a" / "b"
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (tmp_path / "cache", tmp_path / "cache" / "a"))
    monkeypatch.delenv("CNNJAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "cnnjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "cnnjax"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be created: .*\nSet CNNJAX_CACHE_DIR"):
        cache_dir("a")


# Split strings

SIZES = {"train": 37, "validation": 1, "test": 200}


def test_split_strings():
    assert split_spec.select("train[:90%]+test[-10:]", SIZES) == [("train", 0, 33), ("test", 190, 200)]
    assert split_spec.select("all", SIZES) == [("train", 0, 37), ("validation", 0, 1), ("test", 0, 200)]
    np.testing.assert_array_equal(split_spec.indices("test[:2]+train[35:]", SIZES), [38, 39, 35, 36])


@pytest.mark.parametrize(
    "spec, words",
    [
        ("trian[:5]", "there is no 'trian'. Did you mean train? The splits are: train, validation, test."),
        ("", "write one as train"),
        ("train[", "write one as train"),
        ("train[:]", "write one as train"),
        ("train[5]", "write one as train"),
        ("train[1.5:]", "write one as train"),
        ("train[::2]", "write one as train"),
        ("train[:1shard]", "write one as train"),
        ("train++test", "write one as train"),
        ("all[:5]", "'all' cannot be cut"),
        ("train[:101%]", "101 % is more than there is"),
        ("train[:38]", "38 is out of range, for the split has 37 examples"),
        ("train[-38:]", "-38 is out of range"),
        ("train[:1%]", "'train[:1%]' holds no example: train has 37, validation has 1, test has 200."),
        ("train[20:10]", "holds no example"),
    ],
)
def test_wrong_split_strings(spec, words):
    with pytest.raises(UserError) as raised:
        split_spec.select(spec, SIZES)
    assert words in str(raised.value)


BOUNDARIES = st.one_of(
    st.just(""),
    st.integers(-210, 210).map(str),
    st.integers(-105, 105).map(lambda value: f"{value}%"),
    st.floats(-105, 105).map(lambda value: f"{value:.2f}%"),
    st.sampled_from(["x", "1.5", "%", "--1", "1.2.3%", ".", "-.5%", "5."]),
)
PARTS = st.one_of(
    st.sampled_from([*SIZES, "all", "other"]),
    st.builds("{}[{}:{}]".format, st.sampled_from([*SIZES, "all"]), BOUNDARIES, BOUNDARIES),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=3), st.sampled_from(["+", " + "]))
def test_split_strings_mean_what_they_mean_to_tfds(parts, plus):
    from tensorflow_datasets.core import splits

    infos = {name: splits.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in SIZES.items()}
    spec = plus.join(parts)
    try:
        theirs = splits.ReadInstruction.from_spec(spec).to_absolute(infos)
        ranges = [(i.splitname, i.from_ or 0, SIZES[i.splitname] if i.to is None else i.to) for i in theirs]
        expected = [(name, start, stop) for name, start, stop in ranges if start < stop] or None
    except (ValueError, NotImplementedError):
        expected = None
    try:
        ours = split_spec.select(spec, SIZES)
    except UserError:
        ours = None
    assert ours == expected

"""Sets of tfds, read without TensorFlow."""

import hashlib
import io
import json
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.errors import RunError, UserError
from tests.data.sets import opened, options

pytestmark = pytest.mark.usefixtures("nothing_outside")


@pytest.fixture
def digits_copy(digits_dir, tmp_path):
    """A data_dir with digits of its own, to be damaged."""
    shutil.copytree(digits_dir / "digits", tmp_path / "copy" / "digits")
    return tmp_path / "copy"


REAL_DATA_DIR = os.environ.get("CNNJAX_DATA_DIR", "")


@pytest.fixture
def fashion():
    """Fashion-MNIST, where it is at hand: its data_dir."""
    for folder in (Path(REAL_DATA_DIR), Path(REAL_DATA_DIR, "tfds")):
        if REAL_DATA_DIR and (folder / "fashion_mnist").is_dir():
            return folder
    pytest.skip("CNNJAX_DATA_DIR is not set, or holds no fashion_mnist")


def png(pixels, **options) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, "png", **options)
    return file.getvalue()


def example_of(values):
    """A tf.train.Example of bytes or ints."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for key, value in values.items():
        feature = example.features.feature[key]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return example


def in_order(example, names) -> bytes:
    """A tf.train.Example of less than 16 kB as it is stored with its fields in an order."""
    from tensorflow_datasets.proto import tf_feature_pb2

    fields = example.features.feature
    stored = b"".join(tf_feature_pb2.Features(feature={name: fields[name]}).SerializeToString() for name in names)
    assert 127 < len(stored) < 2**14
    return bytes([10, len(stored) & 127 | 128, len(stored) >> 7]) + stored


def write_set(
    root, examples, features, *, shard_lengths=None, config_name="", version="1.0.0", as_given=False, **info_fields
):
    """Writes a set as tfds lays it out: `examples` are dicts of bytes or ints, all in split 'train'.

    `as_given`: the fields of an example are stored in the order of its dict, else in one that protobuf chooses.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.features import FeaturesDict

    name = "toy"
    folder = root.joinpath(*filter(None, (name, config_name, version)))
    folder.mkdir(parents=True)
    lengths = shard_lengths or [len(examples)]
    left = iter(examples)
    for i, length in enumerate(lengths):
        path = folder / f"{name}-train.array_record-{i:05d}-of-{len(lengths):05d}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(length):
            values = next(left)
            example = example_of(values)
            writer.write(in_order(example, values) if as_given else example.SerializeToString())
        writer.close()
    FeaturesDict(features).save_config(folder)
    split = dict(name="train", shardLengths=[str(n) for n in lengths], numBytes="1")
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = dict(name=name, version=version, fileFormat="array_record", splits=[split]) | info_fields
    if config_name:
        info["configName"] = config_name
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def image_and_label(shape, dtype=np.uint8, image="image", label="label", classes=10):
    from tensorflow_datasets import features

    return {image: features.Image(shape=shape, dtype=dtype), label: features.ClassLabel(num_classes=classes)}


def toy(root, files, shape, *, dtype=np.uint8, **options):
    examples = [dict(image=file, label=i % 10) for i, file in enumerate(files)]
    return write_set(root, examples, image_and_label(shape, dtype), **options)


def read_all(root, **form):
    dataset = opened(options.Tfds(set="toy", dir=str(root)), **form)
    split = dataset.split("train")
    batch = split.read(np.arange(split.size))
    assert batch["image"].shape == (split.size, *dataset.image_shape)
    assert batch["image"].dtype == dataset.dtype
    return batch


def tfds_source(folder, split):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(folder)).as_data_source(split)


# What is read


def test_digits_equal_what_tfds_reads(digits_dir):
    split = opened(options.Tfds(set="digits", dir=str(digits_dir))).split("test")
    batch = split.read(np.arange(split.size))
    source = tfds_source(digits_dir / "digits" / "1.0.0", "test")
    assert len(source) == split.size == 899
    for i, example in enumerate(source):
        np.testing.assert_array_equal(batch["image"][i], example["image"])
        assert batch["label"][i] == example["label"]


def test_fashion_mnist_equals_what_tfds_reads(fashion):
    dataset = opened(options.Tfds(set="fashion_mnist", dir=str(fashion)))
    assert dataset.split_sizes == dict(train=60000, test=10000)
    assert dataset.class_names[::9] == ("T-shirt/top", "Ankle boot")
    split, source = dataset.split("train"), tfds_source(fashion / "fashion_mnist" / "3.0.1", "train")
    indices = np.random.default_rng(0).integers(0, 60000, 500)
    batch = split.read(indices)
    for row, i in enumerate(indices.tolist()):
        np.testing.assert_array_equal(batch["image"][row], source[i]["image"])
        assert batch["label"][row] == source[i]["label"]


@pytest.mark.slow
def test_blocks_are_at_least_5_times_as_fast_as_single_examples(fashion):
    import grain

    split = opened(options.Tfds(set="fashion_mnist", dir=str(fashion))).split("train")
    source = tfds_source(fashion / "fashion_mnist" / "3.0.1", "train")
    single = grain.MapDataset.source(source).shuffle(0).batch(128)
    indices = np.random.default_rng(0).permutation(60000)

    def seconds(read, steps):  # the faster of two, to be spared what else the machine does
        times = []
        for _ in range(2):
            start = time.perf_counter()
            for step in steps:
                read(step)
            times.append((time.perf_counter() - start) / len(steps))
        return min(times)

    split.read(indices[:128]), single[0]
    block = seconds(lambda i: split.read(indices[128 * i : 128 * (i + 1)]), range(20))
    assert 5 * block < seconds(single.__getitem__, range(5))


@pytest.mark.parametrize("spec", ["train[:90%]", "train[90%:]+test", "train[-10:]", "test[5:7]+train[3:4]", "all"])
def test_splits_are_those_of_tfds(digits_dir, spec):
    split = opened(options.Tfds(set="digits", dir=str(digits_dir))).split(spec)
    parts = [example["label"] for example in tfds_source(digits_dir / "digits" / "1.0.0", spec)]
    np.testing.assert_array_equal(split.read(np.arange(split.size))["label"], parts)


def test_indices_in_any_order_over_several_files(tmp_path):
    files = [png(np.full((4, 5), i, np.uint8)) for i in range(12)]
    toy(tmp_path, files, (4, 5, 1), shard_lengths=[5, 1, 6])
    dataset = opened(options.Tfds(set="toy", dir=str(tmp_path)))
    indices = np.array([11, 0, 5, 4, 6, 5, 11])
    batch = dataset.split("train").read(indices)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], indices)
    np.testing.assert_array_equal(dataset.split("train[4:7]").read(np.arange(3))["image"][:, 0, 0, 0], [4, 5, 6])
    assert batch["image"].flags.writeable
    assert dataset.split("train").read(np.array([], int))["image"].shape == (0, 4, 5, 1)
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            dataset.split("train").read(np.array([0, outside]))


NOISE = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, dict(compress_level=0), dict(optimize=True), dict(pnginfo=True)])
def test_png_of_every_kind_of_filter(tmp_path, channels, options):
    from PIL.PngImagePlugin import PngInfo

    if "pnginfo" in options:  # a text before the pixels
        options = dict(pnginfo=PngInfo())
        options["pnginfo"].add_text("a", "b")
    smooth = np.add.outer(np.arange(6), np.arange(7)).astype(np.uint8)[..., None].repeat(4, 2)
    pictures = [a[..., :channels].squeeze() for a in (NOISE, smooth, NOISE // 3 + smooth)]
    folder = toy(tmp_path, [png(a, **options) for a in pictures], (6, 7, channels))
    batch = read_all(tmp_path)
    np.testing.assert_array_equal(batch["image"], [a.reshape(6, 7, channels) for a in pictures])
    np.testing.assert_array_equal(batch["image"], [e["image"] for e in tfds_source(folder, "train")])


def test_jpeg_palette_and_interlaced_pictures_of_one_size(tmp_path):
    file = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(file, "jpeg")
    palette = Image.fromarray(NOISE[..., :3]).quantize(16)
    toy(tmp_path, [file.getvalue(), png(palette), png(NOISE[..., 0])], (6, 7, 3))
    image = read_all(tmp_path)["image"]
    np.testing.assert_array_equal(image[0], np.asarray(Image.open(file)))
    np.testing.assert_array_equal(image[1], np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(image[2], NOISE[..., :1].repeat(3, 2))


def test_16_bits_are_kept(tmp_path):
    pixels = np.array([[0, 1, 256], [65535, 4660, 13330]], np.uint16)
    toy(tmp_path, [png(pixels)], (2, 3, 1), dtype=np.uint16)
    batch = read_all(tmp_path)
    assert batch["image"].dtype == np.uint16
    np.testing.assert_array_equal(batch["image"][0, ..., 0], pixels)


def test_floats_are_kept(tmp_path):
    pixels = np.array([[0.5, -1e-3, 3e8], [1.0, np.pi, -0.0]], np.float32)
    folder = toy(tmp_path, [png(pixels.view(np.uint8).reshape(2, 3, 4))], (2, 3, 1), dtype=np.float32)
    batch = read_all(tmp_path)
    assert batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["image"][0, ..., 0], pixels)
    np.testing.assert_array_equal(batch["image"][0], tfds_source(folder, "train")[0]["image"])


def test_pictures_of_mixed_sizes_are_brought_to_one(tmp_path):
    toy(tmp_path, [png(np.zeros((9, 5, 3), np.uint8)), png(np.full((4, 20, 3), 200, np.uint8))], (None, None, 3))
    image = read_all(tmp_path)["image"]
    assert image.shape == (2, 128, 128, 3) and (image[0] == 0).all() and (image[1] == 200).all()
    assert read_all(tmp_path, size=16, channels=1)["image"].shape == (2, 16, 16, 1)
    padded = read_all(tmp_path, size=20, resize="pad")["image"]
    assert (padded[1, :8] == 0).all() and (padded[1, 8:12] == 200).all()


def test_pictures_of_one_size_are_resized_and_coloured_when_asked(tmp_path):
    toy(tmp_path, [png(NOISE[..., 0])], (6, 7, 1))
    assert read_all(tmp_path, size=3)["image"].shape == (1, 3, 3, 1)
    np.testing.assert_array_equal(read_all(tmp_path, channels=3)["image"][0], NOISE[..., :1].repeat(3, 2))


def test_large_pictures_are_read_in_threads(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    toy(tmp_path, [png(p) for p in pictures], (64, 64, 3))
    np.testing.assert_array_equal(read_all(tmp_path)["image"], pictures)


def test_reading_pickles_and_threads_may_share_it(digits_dir):
    split = opened(options.Tfds(set="digits", dir=str(digits_dir))).split("train")
    expected = split.read(np.arange(split.size))["image"]
    read = pickle.loads(pickle.dumps(split.read))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: read(np.array([i]))["image"][0], range(split.size)))
    np.testing.assert_array_equal(rows, expected)


def test_features_are_found_by_type_and_of_several_the_supervised(tmp_path):
    from tensorflow_datasets import features

    there = dict(image_and_label((6, 7, 1), image="scan", label="disease"), coarse=features.ClassLabel(num_classes=2))
    examples = [dict(scan=png(NOISE[..., 0]), disease=7, coarse=1)]
    keys = dict(supervisedKeys=dict(tuple=dict(items=[dict(featureKey="scan"), dict(featureKey="disease")])))
    write_set(tmp_path, examples, there, **keys)
    np.testing.assert_array_equal(read_all(tmp_path)["label"], [7])


def test_fingerprint_changes_with_the_examples_alone(tmp_path):
    files = [png(np.full((2, 2), i, np.uint8)) for i in range(4)]
    toy(tmp_path / "a", files, (2, 2, 1))
    toy(tmp_path / "b", files, (2, 2, 1), shard_lengths=[1, 3])
    toy(tmp_path / "c", files[:3] + [png(np.full((2, 2), 9, np.uint8))], (2, 2, 1))
    a, b, c = (opened(options.Tfds(set="toy", dir=str(tmp_path / n))).fingerprint for n in "abc")
    assert a == b != c


def test_the_order_of_fields_in_a_file_is_no_part_of_the_fingerprint(tmp_path):
    """Protobuf chooses it anew in each process: who prepares a set again has the same set."""
    files = [png(NOISE[:, :, 0] + i) for i in range(4)]
    found = []
    for keys in (("image", "label"), ("label", "image")):
        examples = [{key: dict(image=file, label=0)[key] for key in keys} for file in files]
        write_set(tmp_path / keys[0], examples, image_and_label(NOISE.shape[:2] + (1,)), as_given=True)
        found.append(opened(options.Tfds(set="toy", dir=str(tmp_path / keys[0]))))
    one, other = found
    assert one.fingerprint == other.fingerprint
    # Version 0.1 took that of the files as they are: of both, a run on either is one on the same data.
    digest = hashlib.sha256(b"toy:1.0.0train 4 1")
    for example in examples[0], examples[1], examples[3]:
        digest.update(in_order(example_of(example), ("label", "image")))
    assert digest.hexdigest() in one.former_fingerprints and digest.hexdigest() in other.former_fingerprints
    assert one.former_fingerprints[1] == one.fingerprint  # of the first file as it is


# Where it is found


def test_newest_version_and_the_one_asked_for(tmp_path):
    for version, grey in {"1.9.0": 1, "1.10.0": 2}.items():
        toy(tmp_path, [png(np.full((2, 2), grey, np.uint8))], (2, 2, 1), version=version)
    for name, grey in {"toy": 2, "toy:1.9.0": 1, "toy:1.*.*": 2}.items():
        split = opened(options.Tfds(set=name, dir=str(tmp_path))).split("train")
        assert split.read(np.array([0]))["image"].max() == grey
    with pytest.raises(UserError, match=r"toy:2.0.0 has other versions \(1.10.0, 1.9.0\)"):
        opened(options.Tfds(set="toy:2.0.0", dir=str(tmp_path)))


def test_configs(tmp_path):
    files = [png(np.zeros((2, 2), np.uint8))]
    toy(tmp_path, files, (2, 2, 1), config_name="plain")
    assert opened(options.Tfds(set="toy", dir=str(tmp_path))).name == "toy/plain:1.0.0"
    toy(tmp_path, files, (2, 2, 1), config_name="odd")
    with pytest.raises(UserError, match="toy is there as toy/odd, toy/plain; say which"):
        opened(options.Tfds(set="toy", dir=str(tmp_path)))
    assert opened(options.Tfds(set="toy/odd:1.0.0", dir=str(tmp_path))).name == "toy/odd:1.0.0"
    (tmp_path / "toy" / ".config").mkdir()
    (tmp_path / "toy" / ".config" / "metadata.json").write_text('{"default_config_name": "plain"}')
    assert opened(options.Tfds(set="toy", dir=str(tmp_path))).name == "toy/plain:1.0.0"


def test_folders_searched(tmp_path, monkeypatch):
    files = [png(np.zeros((2, 2), np.uint8))]
    places = ["tensorflow_datasets", "tfds_variable", "cache/tfds", "ours/tfds", "ours", "given"]
    for version, place in enumerate(places):  # each comes before those above it
        toy(tmp_path / place, files, (2, 2, 1), version=f"{version}.0.0")
        if place == "tfds_variable":
            monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / place))
        if place == "ours/tfds":
            monkeypatch.setenv("CNNJAX_DATA_DIR", str(tmp_path / "ours"))
        data = options.Tfds(set="toy", dir=str(tmp_path / "given") if place == "given" else "")
        assert opened(data).name == f"toy:{version}.0.0"


# What is refused


def refused(message, source, **form):
    with pytest.raises(UserError, match=message) as caught:
        opened(source, **form)
    assert len(str(caught.value).splitlines()) <= 2


def test_unknown_name():
    refused("no data set 'fashion_mnits'. Did you mean fashion_mnist?", options.Tfds(set="fashion_mnits"))
    refused("no data set 'digitz'", options.Tfds(set="digitz"))
    for name in ("a b", "../x", "huggingface:mnist", "mnist/a=b", "mnist:1"):
        refused("is no data set's name", options.Tfds(set=name))


def test_known_but_not_prepared(tmp_path):
    refused(rf"mnist is not prepared in {tmp_path}/cache/tfds, .*\n.*run.py prepare", options.Tfds(set="mnist"))


def test_prepared_as_tfrecord_alone(tmp_path):
    folder = toy(tmp_path, [png(NOISE)], (6, 7, 4), fileFormat="tfrecord")
    refused(rf"in {folder} as tfrecord.*\n.*--from={folder}", options.Tfds(set="toy", dir=str(tmp_path)))


def test_set_that_is_no_image_classification(tmp_path):
    from tensorflow_datasets import features

    there = dict(a=features.Image(shape=(2, 2, 1)), b=features.Image(shape=(2, 2, 1)), c=features.Text())
    write_set(tmp_path, [], there, shard_lengths=[0])
    refused(r"it has a \(Image\), b \(Image\), c \(Text\)", options.Tfds(set="toy", dir=str(tmp_path)))


BAD_SPLITS = ["trian", "train[", "train[:2", "train[5:5]", "train[:200%]", "train[:9999]", "", "all[:5]"]


@pytest.mark.parametrize("spec", BAD_SPLITS)
def test_bad_splits(digits_dir, spec):
    dataset = opened(options.Tfds(set="digits", dir=str(digits_dir)))
    with pytest.raises(UserError, match="The splits are: train, test|The splits are: test, train") as caught:
        dataset.split(spec)
    assert len(str(caught.value).splitlines()) <= 2 and repr(spec) in str(caught.value)
    assert ("Did you mean train?" in str(caught.value)) == (spec == "trian")


def test_missing_file(digits_copy):
    file = next(digits_copy.glob("*/*/*test.array_record*"))
    file.unlink()
    refused(f"{file} is missing", options.Tfds(set="digits", dir=str(digits_copy)))


@pytest.mark.parametrize("damaged", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 10**5])
def test_damaged_file(digits_copy, damaged):
    file = next(digits_copy.glob("*/*/*test.array_record*"))
    file.write_bytes(damaged(file.read_bytes()))
    refused(f"{file} is damaged", options.Tfds(set="digits", dir=str(digits_copy)))


def test_file_of_another_length(tmp_path):
    folder = toy(tmp_path, [png(NOISE)] * 3, (6, 7, 4))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"3"', '"4"'))
    refused("holds 3 examples, not 4", options.Tfds(set="toy", dir=str(tmp_path)))


def test_damaged_metadata(digits_copy):
    info = next(digits_copy.glob("*/*/dataset_info.json"))
    info.write_text(info.read_text()[:50])
    refused(f"{info} cannot be read", options.Tfds(set="digits", dir=str(digits_copy)))


def test_bad_picture_and_missing_label_are_named(tmp_path):
    files = [png(NOISE), png(NOISE)[:60], b"nothing", png(NOISE[:3])]
    examples = [dict(image=file, label=0) for file in files] + [dict(image=files[0], label=-1)]
    folder = write_set(tmp_path, examples, image_and_label((6, 7, 4)))
    read = opened(options.Tfds(set="toy", dir=str(tmp_path))).split("train[1:]").read
    for i, reason in enumerate(["is damaged", "is not a picture", "is 7x3 pixels, not 7x6", "has no label"]):
        with pytest.raises(RunError, match=rf"example {i + 1} in {folder}/toy-train\S+ {reason}"):
            read(np.array([i]))


def test_only_8_bits_are_resized(tmp_path):
    toy(tmp_path, [png(np.zeros((2, 3), np.uint16))], (2, 3, 1), dtype=np.uint16)
    refused("2x3x1 uint16, which cannot be read as 8x8x1", options.Tfds(set="toy", dir=str(tmp_path)), size=8)

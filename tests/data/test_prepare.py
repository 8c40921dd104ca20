"""Preparing sets of tfds: from TFRecord, by tfds's own builders, and the digits."""

import importlib.util
import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.crc32c import crc32c as reference_crc32c

from cnnjax.data import tfrecord as module
from cnnjax.data.prepare import prepare
from cnnjax.data.tfrecord import crc32c
from cnnjax.errors import RunError, UserError
from tests.data.sets import opened, options

pytestmark = pytest.mark.usefixtures("nothing_outside")


def masked(data: bytes) -> bytes:
    crc = reference_crc32c(data) & 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(record: bytes) -> bytes:
    """A record as TFRecord has it."""
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


TRAIN = 40  # examples, so that the slow reference checksum does not matter


@pytest.fixture
def tfrecord(digits_dir, tmp_path):
    """A data_dir with a set 'tenth' as TFRecord: the first digits, train in 3 files and test in 1."""
    from array_record.python.array_record_module import ArrayRecordReader

    old, new = digits_dir / "digits" / "1.0.0", tmp_path / "old" / "tenth" / "2.0.0"
    new.mkdir(parents=True)
    for file in ("features.json", "label.labels.txt"):
        shutil.copy(old / file, new)
    info = json.loads((old / "dataset_info.json").read_text()) | dict(name="tenth", version="2.0.0")
    del info["fileFormat"]  # as tfds wrote it before there was a choice
    for split in info["splits"]:
        reader = ArrayRecordReader(str(old / f"digits-{split['name']}.array_record-00000-of-00001"))
        lengths = [TRAIN - 9, 1, 8] if split["name"] == "train" else [7]
        split["shardLengths"] = [str(n) for n in lengths]
        for i, length in enumerate(lengths):
            start = sum(lengths[:i])
            records = reader.read(list(range(start, start + length)))
            file = new / f"tenth-{split['name']}.tfrecord-{i:05d}-of-{len(lengths):05d}"
            file.write_bytes(b"".join(map(frame, records)))
    (new / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "old"


@pytest.fixture
def data(tmp_path):
    return options.Tfds(set="tenth", dir=str(tmp_path / "new"))


def silent(_):
    pass


def test_checksums_equal_the_reference():
    random = np.random.default_rng(0)
    messages = [b"", b"a", b"123456789", *(random.bytes(int(n)) for n in random.integers(0, 300, 30))]
    assert [int(c) for c in crc32c(messages)] == [reference_crc32c(m) & 0xFFFFFFFF for m in messages]
    assert int(crc32c([b"123456789"])[0]) == 0xE3069283  # the check value of CRC-32C's definition


@pytest.mark.parametrize("below", ["", "tenth/2.0.0"])
def test_conversion_keeps_every_example(tfrecord, data, digits_dir, below):
    import tensorflow_datasets as tfds

    lines = []
    folder = prepare(data, str(tfrecord / below), log=lines.append)
    assert str(folder) == data.dir + "/tenth/2.0.0"
    assert len(lines) == 5 and "is now prepared" in lines[-1]
    assert [p.name for p in folder.parent.iterdir()] == ["2.0.0"]

    dataset = opened(data)
    assert dataset.split_sizes == dict(train=TRAIN, test=7) and dataset.class_names == tuple("0123456789")
    expected = opened(options.Tfds(set="digits", dir=str(digits_dir))).split("train").read(np.arange(TRAIN))
    batch = dataset.split("train").read(np.arange(TRAIN))
    np.testing.assert_array_equal(batch["image"], expected["image"])
    np.testing.assert_array_equal(batch["label"], expected["label"])
    source = tfds.builder_from_directory(str(folder)).as_data_source("train")
    np.testing.assert_array_equal([e["image"] for e in source], expected["image"])

    assert prepare(data, str(tfrecord), log=lines.append) == folder
    assert "already prepared" in lines[-1]


def test_conversion_of_a_config_keeps_the_default(tfrecord, data):
    folder = tfrecord / "tenth" / "half" / "2.0.0"
    (tfrecord / "tenth" / "2.0.0").rename(tfrecord / "moved")
    folder.parent.mkdir()
    (tfrecord / "moved").rename(folder)
    info = json.loads((folder / "dataset_info.json").read_text()) | dict(configName="half")
    (folder / "dataset_info.json").write_text(json.dumps(info))
    default = tfrecord / "tenth" / ".config" / "metadata.json"
    default.parent.mkdir()
    default.write_text('{"default_config_name": "half"}')
    assert str(prepare(data, str(tfrecord), silent)) == data.dir + "/tenth/half/2.0.0"
    assert Path(data.dir, "tenth", ".config", "metadata.json").read_text() == default.read_text()
    assert opened(data).name == "tenth/half:2.0.0"


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-3], "cut off"),
        (lambda data: data[:5], "cut off"),
        (lambda data: _flip(data, 30), "does not fit its checksum"),
        (lambda data: _flip(data, len(data) - 1), "does not fit its checksum"),
        (lambda data: _flip(data, 8), "does not fit its checksum"),
        (lambda data: _flip(data, 6), "cut off"),
        (lambda data: data + frame(b"more"), "holds 9 examples; dataset_info.json says 8"),
        (lambda data: b"", "holds 0 examples; dataset_info.json says 8"),
    ],
)
def test_damaged_source_is_named_and_nothing_stays(tfrecord, data, tmp_path, damage, message):
    file = tfrecord / "tenth/2.0.0/tenth-train.tfrecord-00002-of-00003"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match=f"{file} .*{message}"):
        prepare(data, str(tfrecord), silent)
    assert list((tmp_path / "new" / "tenth").iterdir()) == []


def test_missing_file_of_the_source(tfrecord, data):
    file = tfrecord / "tenth/2.0.0/tenth-train.tfrecord-00002-of-00003"
    file.unlink()
    with pytest.raises(RunError, match=f"No such file or directory: '{file}'"):
        prepare(data, str(tfrecord), silent)


def test_large_and_many_records_come_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(module, "BLOCK_RECORDS", 4)
    records = [bytes([i]) * (i * 37 % 400) for i in range(50)]
    (tmp_path / "file").write_bytes(b"".join(map(frame, records)))
    blocks = list(module.read_tfrecords(tmp_path / "file"))
    assert [r for block in blocks for r in block] == records and 5 < len(blocks) <= 13


def test_sources_that_do_not_fit(tfrecord, data, tmp_path, digits_dir):
    with pytest.raises(UserError, match="holds no tenth"):
        prepare(data, str(tmp_path), silent)
    with pytest.raises(UserError, match="holds tenth, not mnist"):
        prepare(options.Tfds(set="mnist"), str(tfrecord / "tenth/2.0.0"), silent)
    with pytest.raises(UserError, match="holds array_record: only TFRecord"):
        prepare(data, str(digits_dir / "digits/1.0.0"), silent)
    with pytest.raises(UserError, match="holds other files already: name another folder"):
        prepare(options.Tfds(set="tenth", dir=str(tfrecord)), str(tfrecord), silent)


def test_target_is_the_variable_and_else_the_cache(tfrecord, tmp_path, monkeypatch):
    data = options.Tfds(set="tenth")
    assert prepare(data, str(tfrecord), silent) == tmp_path / "cache/tfds/tenth/2.0.0"
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("CNNJAX_DATA_DIR", str(tmp_path / "ours"))
    assert prepare(data, str(tfrecord), silent) == tmp_path / "ours/tenth/2.0.0"


def test_digits_are_prepared_once(tmp_path):
    lines = []
    for _ in range(2):
        assert options.Digits().prepare("", lines.append) == tmp_path / "cache/tfds/digits/1.0.0"
    assert "is now prepared" in lines[0] and "is already prepared" in lines[1]


def test_folder_needs_none():
    with pytest.raises(UserError, match="needs no preparation"):
        options.ClassFolder().prepare("", silent)


def test_unknown_name_comes_before_tensorflow():
    with pytest.raises(UserError, match="Did you mean mnist"):
        prepare(options.Tfds(set="mnits"), log=silent)


def test_without_tensorflow(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install -r requirements-prepare.txt"):
        prepare(options.Tfds(set="mnist"), log=silent)


def test_tfrecord_at_hand_is_to_be_converted_not_built(tfrecord):
    with pytest.raises(UserError, match=f"--from={tfrecord}/tenth/2.0.0"):
        prepare(options.Tfds(set="tenth", dir=str(tfrecord)), log=silent)


def test_building_is_left_to_tfds(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    asked = []
    builder = SimpleNamespace(
        data_dir=str(tmp_path / "there"),
        download_and_prepare=lambda: asked.append("prepare"),
        MANUAL_DOWNLOAD_INSTRUCTIONS=None,
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tfds, "builder", lambda name, **options: asked.append((name, options)) or builder)
    data = options.Tfds(set="mnist:3.0.1", dir=str(tmp_path))
    assert prepare(data, log=silent) == tmp_path / "there"
    assert asked == [("mnist:3.0.1", dict(data_dir=str(tmp_path), file_format="array_record")), "prepare"]

    def offline():
        raise ConnectionError("no route\nand a long story")

    builder.download_and_prepare = offline
    with pytest.raises(RunError, match="tfds could not build mnist:3.0.1: ConnectionError: no route$"):
        prepare(data, log=silent)

    builder.MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Log in, and fetch
    pictures.rar."""
    with pytest.raises(
        UserError, match=f"by hand into {tmp_path}/downloads/manual, .* Log in, and fetch pictures.rar."
    ):
        prepare(data, log=silent)


def test_one_of_tfds_own_builders_with_tensorflow(tmp_path):
    """In an environment with requirements-prepare.txt: a set whose builder reads pictures downloaded by hand."""
    pytest.importorskip("tensorflow", reason="needs requirements-prepare.txt")
    from tensorflow_datasets.datasets.resisc45 import resisc45_dataset_builder

    classes = resisc45_dataset_builder._LABELS
    for i, name in enumerate(classes):
        folder = tmp_path / "downloads" / "manual" / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", (256, 256), (5 * i, 5 * i, 5 * i)).save(
                folder / f"{name}_{j:03d}.jpg", quality=100, subsampling=0
            )
    data = options.Tfds(set="resisc45", dir=str(tmp_path))
    assert prepare(data, log=silent) == tmp_path / "resisc45" / "3.0.0"
    dataset = opened(data)
    assert dataset.class_names == tuple(classes) and dataset.image_shape == (256, 256, 3)
    batch = dataset.split("train").read(np.arange(90))
    assert abs(batch["image"][:, 0, 0, 0].astype(int) - 5 * batch["label"]).max() <= 2
    assert np.bincount(batch["label"]).tolist() == [2] * 45

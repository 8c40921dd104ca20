"""Image-classification sets of tfds, read from their ArrayRecord files in blocks and without TensorFlow."""

import functools
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnjax.data.picture_scan import cores
from cnnjax.data.source import Batch, Dataset, Split
from cnnjax.data.tfds_folders import find
from cnnjax.errors import RunError, Unreadable, UserError, first_line
from cnnjax.inputs.images.decoding import read_image
from cnnjax.inputs.images.stored_pixels import MODES, plain_pixels, stored_pixels
from cnnjax.knobs import nearest

OPEN_FILES = 512  # files of examples that are kept open: half of what a process may have open on most systems
SMALL_BYTES = 4096  # of a picture's file on average: smaller ones are decoded together, larger ones in threads
MIXED_SIZE = 128  # pixels: pictures of several sizes are brought to this, where no size is asked for


def open_tfds(source, input) -> Dataset:
    """A prepared image-classification set, read from its ArrayRecord files without TensorFlow.

    Raises:
      UserError: an unknown or unprepared set, one that is no image classification, missing or damaged files.
    """
    name, info = open_info(source)
    image_key, label_key = _feature_keys(name, info)
    image, label = info.features[image_key], info.features[label_key]
    shape, dtype, resize = _form(name, image, input)

    def split(spec: str) -> Split:
        shards = shards_of(spec, info.splits)
        read = _Read(shards, image_key, label_key, label.num_classes, shape, dtype.name, resize)
        return Split(sum(shard.take for shard in shards), read)

    return Dataset(
        name=f"{name}:{info.version}",
        class_names=tuple(label.names),
        image_shape=shape,
        dtype=dtype,
        split_sizes={split_name: split.num_examples for split_name, split in info.splits.items()},
        split=split,
        **fingerprints_of(name, info)._asdict(),
    )


def open_info(source):
    """(name, DatasetInfo) of a prepared set, whose files are all there.

    Raises:
      UserError: an unknown or unprepared set, missing or damaged files.
    """
    import tensorflow_datasets as tfds

    folder = find(source)
    try:
        info = tfds.builder_from_directory(str(folder), file_format="array_record").info
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UserError(f"{folder} cannot be read: {first_line(error)}. Prepare the set again.") from error
    if not info.splits:
        raise UserError(f"{folder} holds no split. Prepare the set again.")
    for split in info.splits.values():
        for path in split.filepaths:
            if not path.exists():
                raise UserError(f"{path} is missing. Prepare the set again.")
    return "/".join(filter(None, (info.name, info.config_name))), info


def _feature_keys(name: str, info) -> tuple[str, str]:
    """The keys of the picture and the label among a set's features. Of several, those that tfds supervises with."""
    from tensorflow_datasets import features

    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    keys = []
    # The type itself: a LabeledImage, which is an Image too, is a mask.
    for kind, fits in ((features.Image, lambda f: len(f.shape) == 3), (features.ClassLabel, lambda f: f.num_classes)):
        found = [key for key, feature in info.features.items() if type(feature) is kind and fits(feature)]
        chosen = [key for key in found if key in supervised] if len(found) > 1 else found
        if len(chosen) != 1:
            there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(info.features.items()))
            raise UserError(f"{name} is no image classification: it has {there}, not one Image and one ClassLabel.")
        keys += chosen
    return keys[0], keys[1]


def _form(name: str, feature, image) -> tuple[tuple[int, int, int], np.dtype, str]:
    """The shape and type that an Image feature's pictures are brought to, and how; '' where they are stored so.

    Raises:
      UserError: it cannot be done with such pictures.
    """
    (height, width, stored), dtype = feature.shape, np.dtype(feature.np_dtype)
    channels = image.channels or (stored if height and width and stored else 1 if stored == 1 else 3)
    size = image.size or (0 if height and width else MIXED_SIZE)
    shape = (size or height, size or width, channels)
    if shape == (height, width, stored) and (dtype.name, channels) in MODES:
        return shape, dtype, ""
    if dtype != np.uint8 or channels not in (1, 3):
        raise UserError(
            f"{name} has images of {_shape(feature.shape)} {dtype}, which cannot be read as {_shape(shape)}.\n"
            "Only images of 8 bits can be resized or change channels: leave config.input.size and config.input.channels at 0."
        )
    return shape, dtype, image.resize


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if n is None else str(n) for n in shape)


class Shard(NamedTuple):
    """Consecutive examples of one file."""

    path: str
    skip: int
    take: int


def shards_of(spec: str, splits) -> tuple[Shard, ...]:
    """What files a split stands for, each of them looked at; UserError for an unknown split or a damaged file."""
    try:
        parts = splits[spec].file_instructions
    except (ValueError, KeyError, NotImplementedError, AssertionError) as error:
        names = [part.partition("[")[0].strip() for part in spec.split("+")]
        hint = "".join(nearest(part, splits) for part in names if part not in splits)
        raise UserError(f"Split {spec!r}: {first_line(error)}{hint}\nThe splits are: {', '.join(splits)}.") from error
    if not parts:
        raise UserError(f"Split {spec!r} holds no example. The splits are: {', '.join(splits)}.")
    for part in parts:
        try:
            count = _reader(part.filename, os.getpid()).num_records()
        except RunError as error:
            raise UserError(f"{error} Prepare the set again.") from error
        if count != part.examples_in_shard:
            expected = part.examples_in_shard
            raise UserError(f"{part.filename} holds {count} examples, not {expected}. Prepare the set again.")
    return tuple(Shard(os.fspath(part.filename), part.skip, part.take) for part in parts)


class Fingerprints(NamedTuple):
    """Of what the examples are, not of how they are stored: a converted, copied or newly prepared set is the same set.

    Version 0.1 counted the order of an example's fields in its file too; the former ones are what it can have recorded.
    """

    fingerprint: str
    former_fingerprints: tuple[str, ...]


def fingerprints_of(name: str, info) -> Fingerprints:
    """Of how many examples each split has, and of three of them."""
    digests = [hashlib.sha256(f"{name}:{info.version}".encode()) for _ in range(3)]
    for split_name, split in sorted(info.splits.items()):
        for digest in digests:
            digest.update(f"{split_name} {split.num_examples} {int(split.num_bytes)}".encode())
        if not split.num_examples:
            continue
        shards = shards_of(split_name, info.splits)
        for record in records_at(shards, np.unique(np.linspace(0, split.num_examples - 1, 3).astype(int))):
            for digest, stored in zip(digests, (*_in_both_orders(record), record)):
                digest.update(stored)
    fingerprint, *former = (digest.hexdigest() for digest in digests)
    return Fingerprints(fingerprint, tuple(former))


def _in_both_orders(record: bytes) -> tuple[bytes, bytes]:
    """The same example as it is stored with its fields in the order of their names, and in the opposite one.

    Protobuf writes a map in an order that it chooses anew in each process, and promises none where asked to sort.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    try:
        fields = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError:  # whoever reads it says so
        return record, record
    entries = [tf_feature_pb2.Features(feature={name: fields[name]}).SerializeToString() for name in sorted(fields)]
    size, length = sum(map(len, entries)), b""
    while size > 127:  # a varint: seven bits a byte, the lowest first
        size, length = size >> 7, length + bytes([size & 127 | 128])
    head = b"\n" + length + bytes([size])  # field 1 of the example, of that length
    return head + b"".join(entries), head + b"".join(reversed(entries))


@functools.lru_cache(OPEN_FILES)
def _reader(path: str, process: int):
    """An open file, which threads may share. Never with a forked process, which has none of its reader's threads.

    Raises:
      RunError: the file is missing or damaged.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    del process
    # No reading ahead: what is read next is anywhere.
    reader = ArrayRecordReader(path, options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
    if not reader.ok():
        try:
            reader.read([0])  # says what is wrong
        except Exception as error:
            raise RunError(f"{path} is damaged or missing: {first_line(error)}.") from error
        raise RunError(f"{path} is damaged or missing.")
    return reader


def records_at(shards: tuple[Shard, ...], indices: np.ndarray) -> list[bytes]:
    """The serialised examples at indices [n] of the shards put end to end.

    Raises:
      RunError: naming the file that is damaged.
    """
    takes = np.array([shard.take for shard in shards])
    ends = np.cumsum(takes)
    if len(indices) and not 0 <= indices.min() <= indices.max() < ends[-1]:
        raise IndexError(f"indices must lie in 0 to {ends[-1] - 1}, not {indices.min()} to {indices.max()}")
    which = np.searchsorted(ends, indices, side="right")
    positions = indices - (ends - takes)[which] + np.array([shard.skip for shard in shards])[which]
    records = [b""] * len(indices)
    for i in np.unique(which):
        places = np.flatnonzero(which == i)
        try:
            found = _reader(shards[i].path, os.getpid()).read(positions[places].tolist())
        except RuntimeError as error:
            raise RunError(f"{shards[i].path} is damaged: {first_line(error)}.") from error
        for place, record in zip(places, found, strict=True):
            records[place] = record
    return records


class _Read(NamedTuple):
    """Reads examples; holds no open file, so that it can be pickled."""

    shards: tuple[Shard, ...]
    image_key: str
    label_key: str
    num_classes: int
    shape: tuple[int, int, int]
    dtype: str  # by name, which numpy takes its time to make
    resize: str  # empty: pictures are stored in this shape

    def __call__(self, indices: np.ndarray) -> Batch:
        """Examples at indices [n] -> {'image': [n, H, W, C], 'label': [n] int32}; RunError for a damaged one."""
        from tensorflow_datasets.proto import tf_example_pb2

        indices = np.asarray(indices)
        records = records_at(self.shards, indices)
        features = [tf_example_pb2.Example.FromString(record).features.feature for record in records]
        files = [b"".join(feature[self.image_key].bytes_list.value[:1]) for feature in features]
        labels = np.array([(*feature[self.label_key].int64_list.value, -1)[0] for feature in features], np.int32)
        unlabelled = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(unlabelled):
            raise RunError(f"{self._example(indices[unlabelled[0]])} has no label: choose another split.")
        small = sum(map(len, files)) <= SMALL_BYTES * len(files)
        pixels = plain_pixels(files, self.shape, self.dtype) if small and not self.resize else None
        if pixels is None:
            with ThreadPoolExecutor(1 if small else cores()) as pool:  # Pillow decodes outside the interpreter's lock
                pixels = b"".join(pool.map(self._pixels, files, indices))
        # A bytearray, for the array to be one that can be written to.
        images = np.frombuffer(bytearray(pixels), self.dtype).reshape(-1, *self.shape)
        return {"image": images, "label": labels}

    def _pixels(self, file: bytes, index: int) -> bytes:
        height, width, channels = self.shape
        try:
            if not self.resize:
                return stored_pixels(file, self.shape, self.dtype)
            size = height if height == width else 0
            picture = read_image(io.BytesIO(file), channels=channels, size=size, resize=self.resize)
            if picture.shape != self.shape:
                raise Unreadable(f"is {picture.shape[1]}x{picture.shape[0]} pixels, not {width}x{height}")
            return picture.tobytes()
        except Unreadable as error:
            raise RunError(f"The picture of {self._example(index)} {error}.") from error

    def _example(self, index: int) -> str:
        for shard in self.shards:
            if index < shard.take:
                return f"example {shard.skip + index} in {shard.path}"
            index -= shard.take
        raise IndexError(index)

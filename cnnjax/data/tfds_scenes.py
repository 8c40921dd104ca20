"""Sets of tfds with a mask for each picture (oxford_iiit_pet, say), read from ArrayRecord files without TensorFlow.

All masks are decoded once when the set is opened: their sizes must be known, and which values are classes.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnjax.data import masks
from cnnjax.data.picture_scan import cores
from cnnjax.data.source import Batch, Dataset, Scenes
from cnnjax.data.tfds_source import Shard, fingerprints_of, open_info, records_at, shards_of
from cnnjax.errors import RunError, Unreadable, UserError
from cnnjax.inputs.images.decoding import read_image, read_stored

MASK_WORDS = ("mask", "segment", "label", "annotation")
BLOCK = 64  # examples that are read at once when masks are looked at


def open_tfds_scenes(source, image) -> Dataset:
    """A prepared set whose examples have a picture and a mask.

    Raises:
      UserError: an unknown or unprepared set, one without masks or with several, values that are no classes.
    """
    if image.size:
        raise UserError("config.input.size must be 0: pictures and masks are taken as large as they are.")
    legend = masks.read_legend(source.legend)
    name, info = open_info(source)
    image_key, mask_key = _keys(name, info)
    colours = masks.names_colours(legend)
    looks = {
        shard.path: _looks(shard, mask_key, colours) for split in info.splits for shard in shards_of(split, info.splits)
    }
    everything = [look for found in looks.values() for look in found]
    code = masks.code_of(everything, source.mask_kind, legend or _names(info.features[mask_key]), source.ignore)
    if code.kind == "index" and legend is None and _names(info.features[mask_key]) is None:
        values = np.unique(np.concatenate([look.values for look in everything]))
        values = tuple(int(v) for v in values if v != source.ignore)
        code = code._replace(
            class_names=tuple(map(str, values)), values=values
        )  # those that occur: 1, 2, 3 of the pets
    for path, found in looks.items():
        for number, look in enumerate(found):
            if (value := code.stranger(look)) is not None:
                raise UserError(f"The mask of example {number} in {path} has pixels of {value}, which is no class.")
    stored = info.features[image_key].shape[-1]
    channels = image.channels or (1 if stored == 1 else 3)
    sizes = {path: np.array([look.shape[:2] for look in found], np.int64) for path, found in looks.items()}

    def split(spec: str) -> Scenes:
        shards = shards_of(spec, info.splits)
        ours = np.concatenate([sizes[shard.path][shard.skip : shard.skip + shard.take] for shard in shards])
        names = tuple(f"example {i} of {spec}" for i in range(len(ours)))
        return Scenes(ours, names, _Read(shards, image_key, mask_key, channels, code))

    return Dataset(
        name=f"{name}:{info.version}",
        class_names=code.class_names,
        image_shape=(0, 0, channels),
        dtype=np.dtype(np.uint8),
        split_sizes={split_name: split.num_examples for split_name, split in info.splits.items()},
        split=split,
        **fingerprints_of(name, info)._asdict(),
        has_objects=code.kind == "instances",
        notes=(f"Masks are read as {code.kind}: {', '.join(code.class_names[:8])}.",),
    )


def _keys(name: str, info) -> tuple[str, str]:
    """The keys of the picture and its mask among a set's features."""
    from tensorflow_datasets import features

    images = {key: f for key, f in info.features.items() if isinstance(f, features.Image) and len(f.shape) == 3}
    is_mask = lambda key, f: isinstance(f, features.LabeledImage) or any(word in key.lower() for word in MASK_WORDS)
    found = [key for key, f in images.items() if is_mask(key, f)]
    others = [key for key in images if key not in found]
    if len(found) != 1 or len(others) != 1:
        there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(info.features.items()))
        raise UserError(f"{name} has {there}: not one picture and one mask for it.")
    return others[0], found[0]


def _names(feature) -> dict[str, int] | None:
    """The legend that a LabeledImage carries."""
    names = getattr(feature, "names", None)
    return {name: number for number, name in enumerate(names)} if names else None


def _looks(shard: Shard, mask_key: str, colours: bool) -> list[masks.Look]:
    """What is seen of the masks of a whole file."""
    found = []
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, shard.take, BLOCK):
            records = records_at((shard,), np.arange(start, min(start + BLOCK, shard.take)))
            found += pool.map(lambda record: masks.look_at(_pixels(record, mask_key, colours)), records)
    return found


def _pixels(record: bytes, key: str, colours: bool) -> np.ndarray:
    try:
        return read_stored(io.BytesIO(_file(record, key)), colours)
    except Unreadable as error:
        raise RunError(f"A mask of the set {error}. Prepare the set again.") from error


def _file(record: bytes, key: str) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    return b"".join(tf_example_pb2.Example.FromString(record).features.feature[key].bytes_list.value[:1])


class _Read(NamedTuple):
    """`Scenes.read`; holds no open file, so that it can be pickled."""

    shards: tuple[Shard, ...]
    image_key: str
    mask_key: str
    channels: int
    code: masks.Code

    def __call__(self, index: int) -> Batch:
        (record,) = records_at(self.shards, np.array([index]))
        try:
            file = io.BytesIO(_file(record, self.image_key))
            image = read_image(file, channels=self.channels, size=0, resize="crop")
        except Unreadable as error:
            raise RunError(f"The picture of example {index} in {self.shards[0].path} {error}.") from error
        mask = _pixels(record, self.mask_key, self.code.kind == "colour")
        if image.shape[:2] != mask.shape[:2]:
            height, width = image.shape[:2]
            raise RunError(
                f"Example {index} in {self.shards[0].path}: the picture is {width}x{height} pixels, its mask "
                f"{mask.shape[1]}x{mask.shape[0]}."
            )
        return dict(image=image) | self.code.classes(mask)

"""What an experiment may say of each source of examples."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from cnnjax.errors import UserError
from cnnjax.knobs import MACHINE, knob

Log = Callable[[str], None]


@dataclasses.dataclass(slots=True)
class Digits:
    """Handwritten digits of 8x8 pixels, which come with cnnjax."""

    name: str = "digits"

    targets: ClassVar[tuple[str, ...]] = ("label",)

    def open(self, input, target: str, known=None):
        from cnnjax.data.digits import ensure_digits
        from cnnjax.data.tfds_source import open_tfds

        return open_tfds(Tfds(set="digits", dir=str(ensure_digits())), input)

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        from cnnjax.cache import cache_dir
        from cnnjax.data import digits

        there = digits.is_prepared(cache_dir("tfds"))
        folder = digits.version_folder(digits.ensure_digits())
        log(f"digits {'is already' if there else 'is now'} prepared in {folder}.")
        return folder


@dataclasses.dataclass(slots=True)
class DigitPairs:
    """Two digits far apart, whose order is the class: what no narrow field of view can know."""

    name: str = "digit_pairs"

    targets: ClassVar[tuple[str, ...]] = ("label",)

    def open(self, input, target: str, known=None):
        from cnnjax.data.digit_pairs import open_digit_pairs

        return open_digit_pairs()

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        raise UserError("digit_pairs is made while it is read: it needs no preparation.")


@dataclasses.dataclass(slots=True)
class DigitScenes:
    """Digits scattered over an image, with a class for every pixel and numbered objects."""

    name: str = "digit_scenes"

    targets: ClassVar[tuple[str, ...]] = ("mask",)

    def open(self, input, target: str, known=None):
        from cnnjax.data.digit_scenes import open_digit_scenes

        return open_digit_scenes()

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        raise UserError("digit_scenes is made while it is read: it needs no preparation.")


FOLDER_NEEDS_NO_PREPARATION = "A folder of images needs no preparation: train on it with --config.source.dir=FOLDER"
SKIP_BAD_FILES = "leave out images that cannot be read, instead of refusing to train"


@dataclasses.dataclass(slots=True)
class ClassFolder:
    """Your own images, a folder a class: DIR/CLASS/*, or DIR/train/CLASS/* and DIR/test/CLASS/*."""

    name: str = "class_folder"
    dir: str = knob("", "the folder DIR of the images", kind=MACHINE, path=True)
    test_fraction: float = knob(
        0.2, "part of each class that is cut off for test where there is no DIR/test", above=0, below=1
    )
    skip_bad_files: bool = knob(False, SKIP_BAD_FILES)

    targets: ClassVar[tuple[str, ...]] = ("label",)

    def open(self, input, target: str, known=None):
        from cnnjax.data.folder import open_folder

        return open_folder(self, input)

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        raise UserError(FOLDER_NEEDS_NO_PREPARATION)


@dataclasses.dataclass(slots=True)
class MaskFolder:
    """Your own images with masks: DIR/images and DIR/masks, or NAME_mask.png beside NAME, or two folders anywhere."""

    name: str = "mask_folder"
    dir: str = knob("", "the folder of the images, or of images and masks", kind=MACHINE, path=True)
    masks: str = knob(
        "",
        "the folder of masks; empty: DIR/masks beside DIR/images, or NAME_mask.png beside NAME",
        kind=MACHINE,
        path=True,
    )
    mask_kind: str = knob(
        "auto",
        "what a mask's pixels are: class numbers, 0 and 255, a palette's or the legend's colours, numbers of objects (0: none)",
        choices=("auto", "index", "binary", "palette", "colour", "instances"),
    )
    legend: str = knob("", 'a JSON file {"class name": number or [red, green, blue], ...}', kind=MACHINE, path=True)
    ignore: int = knob(-1, "mask value of pixels that do not count; -1: none", low=-1, high=65535)
    test_files: str = knob(
        "", "patterns of the images' names that are test, commas between (9*,b?.png); empty: test_fraction"
    )
    test_fraction: float = knob(0.2, "part that is cut off for test where there is no DIR/test", above=0, below=1)
    skip_bad_files: bool = knob(False, SKIP_BAD_FILES)

    targets: ClassVar[tuple[str, ...]] = ("mask",)

    def open(self, input, target: str, known=None):
        from cnnjax.data.pairs import open_pairs

        return open_pairs(self, input, known)

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        raise UserError(FOLDER_NEEDS_NO_PREPARATION)


@dataclasses.dataclass(slots=True)
class Tfds:
    """Any set of tensorflow-datasets of images with a label or a mask each, read without TensorFlow."""

    name: str = "tfds"
    set: str = knob("", "its name, perhaps with a configuration and a version: mnist, cifar10:3.0.2")
    dir: str = knob("", "where prepared sets lie; empty: $CNNJAX_DATA_DIR, else the cache", kind=MACHINE, path=True)
    mask_kind: str = knob(
        "auto",
        "what a mask's pixels are: class numbers, 0 and 255, a palette's or the legend's colours, numbers of objects (0: none)",
        choices=("auto", "index", "binary", "palette", "colour", "instances"),
    )
    legend: str = knob("", 'a JSON file {"class name": number or [red, green, blue], ...}', kind=MACHINE, path=True)
    ignore: int = knob(-1, "mask value of pixels that do not count; -1: none", low=-1, high=65535)

    targets: ClassVar[tuple[str, ...]] = ("label", "mask")

    def open(self, input, target: str, known=None):
        if not self.set:
            raise UserError("Which set of tfds? Give it as --config.source.set=NAME.")
        if target == "mask":
            from cnnjax.data.tfds_scenes import open_tfds_scenes

            return open_tfds_scenes(self, input)
        from cnnjax.data.tfds_source import open_tfds

        return open_tfds(self, input)

    def prepare(self, from_folder: str, log: Log = print) -> Path:
        from cnnjax.data.prepare import prepare

        if not self.set:
            raise UserError("Which set of tfds? Give it as --config.source.set=NAME.")
        return prepare(self, from_folder, log)

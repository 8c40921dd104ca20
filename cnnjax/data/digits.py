"""Handwritten digits that come with cnnjax, as a set of tfds: real data that needs no network."""

import contextlib
import functools
import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cnnjax.cache import cache_dir
from cnnjax.errors import RunError, UserError
from cnnjax.storage import locked

TRAIN_SIZE = 898  # the first half, as in scikit-learn's example "Recognizing hand-written digits"
SCALE = 15  # 0..16 times 15 is 0..240: exact, and whoever divides by 15 has the original values back


@functools.cache
def embedded() -> tuple[np.ndarray, np.ndarray]:
    """All digits: (`[1797, 8, 8]` uint8 from 0 to 16, labels `[1797]` uint8), in scikit-learn's order."""
    with np.load(Path(__file__).parent / "embedded" / "digits.npz") as file:
        return file["images"], file["labels"]


def ensure_digits() -> Path:
    """The data_dir of tfds that holds the digits; they are prepared there at the first call, which takes a second.

    Several processes may call at once: one prepares, the others wait. Whatever an interrupted call left is swept up.

    Raises:
      UserError: the cache cannot be written.
    """
    root = cache_dir("tfds")
    if not is_prepared(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with locked(root / ".digits.lock"):
                if not is_prepared(root):  # another process may have been faster
                    shutil.rmtree(root / "digits", ignore_errors=True)
                    _build(root)
        except OSError as error:
            raise UserError(
                f"The digits cannot be written to {root}: {error.strerror or error}.\n"
                "Set CNNJAX_CACHE_DIR to a folder that can be written."
            ) from error
    return root


def version_folder(root: Path) -> Path:
    """Where the digits lie below a data_dir."""
    return root / "digits" / str(Digits.VERSION)


def is_prepared(root: Path) -> bool:
    """Whether the digits lie whole below a data_dir (tfds gives the folder its name when all is in it)."""
    folder = version_folder(root)
    shards = [f"digits-{split}.array_record-00000-of-00001" for split in ("train", "test")]
    return all((folder / name).is_file() for name in ("dataset_info.json", "features.json", *shards))


def _build(root: Path) -> None:
    with _silence():
        builder = Digits(data_dir=str(root), file_format="array_record")
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except Exception as error:  # of many libraries: a full disk, say
            reason = str(error).strip().splitlines()[0][:200]
            raise RunError(
                f"The digits cannot be prepared in {root}: {reason}. Set CNNJAX_CACHE_DIR elsewhere."
            ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No progress bars, notices or warnings of tfds: they are about downloads, and here is none."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _png(pixels: np.ndarray) -> io.BytesIO:
    """A picture [H, W] uint8 as a PNG file, not compressed: so every version of zlib writes the same bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=0)
    file.seek(0)
    return file


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """1,797 handwritten digits of 8x8 pixels, in the order and with the split of scikit-learn's published example."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First half train, second half test."}
    code_path = None  # tfds would look there for checksums of downloads, with a package that is not required

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "The test part of the UCI set Optical Recognition of Handwritten Digits, as scikit-learn carries it: "
                f"grey values 0 to 16, here times {SCALE}. Train is the first {TRAIN_SIZE}, test the last 899, as in "
                "scikit-learn's example 'Recognizing hand-written digits', whose support vector machine reaches 0.97."
            ),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            citation=(
                "@misc{alpaydin1998digits, author={Alpaydin, E. and Kaynak, C.}, year={1998}, publisher={UCI Machine "
                "Learning Repository}, title={Optical Recognition of Handwritten Digits}, doi={10.24432/C50P49}}"
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        parts = dict(train=slice(None, TRAIN_SIZE), test=slice(TRAIN_SIZE, None))
        return {name: self._generate_examples(part) for name, part in parts.items()}

    def _generate_examples(self, part: slice):
        images, labels = embedded()
        for key, (image, label) in enumerate(zip(images[part] * np.uint8(SCALE), labels[part], strict=True)):
            yield key, dict(image=_png(image), label=int(label))

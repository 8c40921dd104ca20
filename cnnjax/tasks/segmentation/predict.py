"""Masks of images: in Python as rows of probabilities, on the command line as files: masks, overlays, areas."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from cnnjax.errors import RunError, UserError
from cnnjax.tasks.segmentation import examples
from cnnjax.tasks.segmentation.instances import objects
from cnnjax.tasks.segmentation.options import Options
from cnnjax.tasks.segmentation.overlay import overlay, palette
from cnnjax.tasks.segmentation.tiling import stitched

LARGEST_OVERLAY = 2048  # pixels: overlays of larger images are scaled down
LARGEST_NUMBER = 2**16 - 1  # of an object in a PNG of 16 bits
SOFTWARE = "cnnjax predict"  # stands in each file that is written, and no other is ever overwritten


def predictor(
    apply: Callable[[np.ndarray], np.ndarray], network, record, config, blend: bool | None = None
) -> Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]:
    """A function of an image `[H, W, C]` of any size, as stored, to rows of probabilities (top, `[rows, W, K]`), in order.

    The image goes through the network in tiles, whose seams leave no trace; device memory does not grow with it.

    Args:
      apply: maps tiles `[B, h, w, C]` to probabilities, and is compiled once for each shape.
      blend: average overlapping tiles; None: as `config.task.seams` says.

    Raises:
      UserError: an image has other channels than those that the network was trained on.
    """
    channels, reach = record.image_shape[-1], examples.reach_of(network, config)
    blend = config.task.seams == "blend" if blend is None else blend

    def predict(image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
            raise UserError(f"This run takes images [H, W, {channels}], not {list(image.shape)}.")
        tiling = examples.tiling_of(config.task, reach, max(image.shape[:2]))
        return stitched(apply, image, tiling, blend, reach.stride)

    return predict


class Writer:
    """Saves, for each image, what the network says of it:

    - NAME_mask.png: the classes, with a colour each;
    - NAME_objects.png, where objects are told apart (by the data, or as config.task.objects says): 16 bits, 0 for none;
    - NAME_overlay.png: the mask over the image;

    and of all together areas.json.
    """

    def __init__(self, record, options: Options, folder: Path):
        self._names, self._options, self._folder = record.class_names, options, folder
        self._numbered = record.has_objects or options.objects == "parts"
        self._targets: dict[Path, Path] = {}
        self.where = f"Masks, overlays and areas.json are in {folder}"

    def check(self, paths: Sequence[Path]) -> None:
        """Raises UserError where two images would be written to the same files, or the folder holds images, or files of
        these names that others wrote."""
        targets = _targets(paths, self._folder)
        _check_free(paths, targets, self._folder)
        self._targets = dict(zip(paths, targets))

    def write(self, path: Path, image: np.ndarray, rows: Iterator[tuple[int, np.ndarray]]) -> dict | str:
        """Writes the files of an image. Returns what is said of it, as JSON values, or a line on why that cannot be.

        It has `classes`, each with `name`, `pixels` and `share` of the image, and perhaps `objects`, their number.

        Raises:
          RunError: the folder cannot be written.
        """
        mask, counts = np.empty(image.shape[:2], np.uint8), np.zeros(len(self._names), np.int64)
        for top, probabilities in rows:
            part = mask[top : top + len(probabilities)]
            part[:] = probabilities.argmax(-1)
            counts += np.bincount(part.ravel(), minlength=len(self._names))
        said = [dict(name=name, pixels=int(n), share=round(n / mask.size, 6)) for name, n in zip(self._names, counts)]
        result, labels = dict(classes=said), None
        if self._numbered:
            labels = objects(mask > 0, self._options.smallest_object)
            result["objects"] = int(labels.max(initial=0))
            if result["objects"] > LARGEST_NUMBER:
                return f"has {result['objects']:,} objects: at most {LARGEST_NUMBER:,} can be numbered"
        target = self._targets[path]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_mask(_file(target, "_mask"), mask)
            if labels is not None:
                _save(Image.fromarray(labels.astype(np.uint16)), _file(target, "_objects"))
            _write_overlay(_file(target, "_overlay"), image, mask)
        except OSError as error:
            raise RunError(f"{error.filename or self._folder} cannot be written: {error.strerror or error}.") from None
        return result

    def line(self, said: dict) -> str:
        """What was said of an image, for a person: the classes that occur, the largest first, and how many objects."""
        areas = sorted(said["classes"], key=lambda row: -row["pixels"])
        shown = "  ".join(f"{c['name']} {c['share']:.1%}" for c in areas if c["pixels"])
        count = f"  {said['objects']} object{'s' * (said['objects'] != 1)}" if "objects" in said else ""
        return shown + count

    def close(self, rows: list[dict]) -> None:
        """Writes areas.json: what was said of each image, with the file's name as `file`.

        Raises:
          RunError: it cannot be written.
        """
        if not rows:
            return
        path = self._folder / "areas.json"
        try:
            path.write_text(json.dumps(rows, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}.") from None


def _targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where each image's files go, without their ending. Images of one name in several folders keep their folder's."""
    stems = Counter(path.stem for path in paths)
    longer = lambda path: f"{path.parent.name}_{path.name.replace('.', '_')}"
    targets = [folder / (longer(path) if stems[path.stem] > 1 else path.stem) for path in paths]
    again, count = Counter(targets).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"Several of the images would be written to {again}_mask.png: predict them one folder at a time."
        )
    return targets


def _check_free(paths: Sequence[Path], targets: Sequence[Path], folder: Path) -> None:
    """Raises UserError where the folder holds the images, or files that would be overwritten and that we did not write."""
    if folder.resolve() in {path.resolve().parent for path in paths}:
        raise UserError(f"{folder} holds images that are to be predicted: give a folder of its own, --output=FOLDER.")
    for target in targets:
        for path in (_file(target, ending) for ending in Options.written):
            if path.exists() and not _is_ours(path):
                raise UserError(
                    f"{path} is there already, and predict did not write it: give another folder, --output=FOLDER."
                )


def _file(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}{ending}.png")


def _is_ours(path: Path) -> bool:
    try:
        with PngImagePlugin.PngImageFile(path) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, SyntaxError, ValueError):  # no PNG, or a damaged one
        return False


def _save(image: Image.Image, path: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Software", SOFTWARE)
    image.save(path, pnginfo=said)


def _write_mask(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    _save(image, path)


def _write_overlay(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    step = -(-max(mask.shape) // LARGEST_OVERLAY)
    _save(Image.fromarray(overlay(image[::step, ::step], mask[::step, ::step])), path)

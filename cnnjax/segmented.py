"""What a segmentation network says of picture files, as files: masks, overlays, areas."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from cnnjax.data import pictures
from cnnjax.errors import RunError, UserError
from cnnjax.inference import Run, segmenter
from cnnjax.tasks.instances import objects
from cnnjax.tasks.overlay import overlay, palette

LARGEST_OVERLAY = 2048  # pixels: overlays of larger pictures are scaled down
LARGEST_NUMBER = 2**16 - 1  # of an object in a PNG of 16 bits
ENDINGS = ("_mask", "_overlay", "_objects")  # of a picture's name, in the names of what is made of it
SOFTWARE = "cnnjax predict"  # stands in each file that is written, and no other is ever overwritten


def predict_files(
    run: Run, paths: Sequence[Path], folder: Path, kernels: str = "auto"
) -> Iterator[tuple[Path, dict | str]]:
    """Writes, for each picture, what the network says; yields it, or one line on why that cannot be done, in order.

    - NAME_mask.png: the classes, with a colour each;
    - NAME_objects.png, where objects are told apart (by the data, or as config.segmentation.objects says): 16 bits, 0 for none;
    - NAME_overlay.png: the mask over the picture.

    What is yielded has `classes`, each with `name`, `pixels` and `share` of the picture, and perhaps `objects`, their number.

    Raises:
      UserError: two pictures would be written to the same files, the folder holds pictures, or files of these names that
        others wrote, or the run was not trained on pictures of 8 bits.
      RunError: the folder cannot be written.
    """
    channels, names = run.record.image_shape[-1], run.record.class_names
    if channels not in (1, 3) or run.record.dtype != "uint8":
        raise UserError(
            f"Picture files are grey or RGB; this run was trained on {channels} channels of {run.record.dtype}."
        )
    targets = _targets(paths, folder)
    _check_free(paths, targets, folder)
    segment = segmenter(run, kernels=kernels)
    options = run.config.segmentation
    numbered = run.record.has_objects or options.objects == "parts"
    for path, target in zip(paths, targets):
        try:
            image = pictures.read_picture(path, channels=channels, size=0, resize="crop")
        except pictures.BadPicture as error:
            yield path, str(error)
            continue
        mask, counts = np.empty(image.shape[:2], np.uint8), np.zeros(len(names), np.int64)
        for top, probabilities in segment(image):
            rows = mask[top : top + len(probabilities)]
            rows[:] = probabilities.argmax(-1)
            counts += np.bincount(rows.ravel(), minlength=len(names))
        said = [dict(name=name, pixels=int(n), share=round(n / mask.size, 6)) for name, n in zip(names, counts)]
        result, labels = dict(classes=said), None
        if numbered:
            labels = objects(mask > 0, options.smallest_object)
            result["objects"] = int(labels.max(initial=0))
            if result["objects"] > LARGEST_NUMBER:
                yield path, f"has {result['objects']:,} objects: at most {LARGEST_NUMBER:,} can be numbered"
                continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_mask(_file(target, "_mask"), mask)
            if numbered:
                _save(Image.fromarray(labels.astype(np.uint16)), _file(target, "_objects"))
            _write_overlay(_file(target, "_overlay"), image, mask)
        except OSError as error:
            raise RunError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None
        yield path, result


def in_words(result: dict) -> str:
    """What `predict_files` yielded, on a line: the classes that occur, the largest first, and how many objects."""
    areas = sorted(result["classes"], key=lambda row: -row["pixels"])
    shown = "  ".join(f"{c['name']} {c['share']:.1%}" for c in areas if c["pixels"])
    objects = f"  {result['objects']} object{'s' * (result['objects'] != 1)}" if "objects" in result else ""
    return shown + objects


def write_areas(folder: Path, rows: list[dict]) -> None:
    """areas.json: what `predict_files` yielded, with the file's name as `file`. Raises RunError where it cannot be written."""
    try:
        if rows:
            (folder / "areas.json").write_text(json.dumps(rows, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{folder / 'areas.json'} cannot be written: {error.strerror or error}.") from None


def _targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where each picture's files go, without their ending. Pictures of one name in several folders keep their folder's."""
    stems = Counter(path.stem for path in paths)
    longer = lambda path: f"{path.parent.name}_{path.name.replace('.', '_')}"
    targets = [folder / (longer(path) if stems[path.stem] > 1 else path.stem) for path in paths]
    again, count = Counter(targets).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"Several of the pictures would be written to {again}_mask.png: predict them one folder at a time."
        )
    return targets


def _check_free(paths: Sequence[Path], targets: Sequence[Path], folder: Path) -> None:
    """Raises UserError where the folder holds the pictures, or files that would be overwritten and that we did not write."""
    if folder.resolve() in {path.resolve().parent for path in paths}:
        raise UserError(f"{folder} holds pictures that are to be predicted: give a folder of its own, --output=FOLDER.")
    for target in targets:
        for path in (_file(target, ending) for ending in ENDINGS):
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

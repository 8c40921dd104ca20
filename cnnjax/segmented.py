"""What a segmentation network says of picture files, as files: masks, overlays, areas."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.data import pictures
from cnnjax.errors import RunError, UserError
from cnnjax.inference import Run, segmenter
from cnnjax.tasks.instances import objects
from cnnjax.tasks.overlay import overlay, palette

LARGEST_OVERLAY = 2048  # pixels: overlays of larger pictures are scaled down
LARGEST_NUMBER = 2**16 - 1  # of an object in a PNG of 16 bits


def predict_files(run: Run, paths: Sequence[Path], folder: Path) -> Iterator[tuple[Path, dict | str]]:
    """Writes, for each picture, what the network says; yields it, or one line on why the picture cannot be read, in order.

    - NAME_mask.png: the classes, with a colour each;
    - NAME_objects.png, where the data told objects apart: 16 bits, 0 for none;
    - NAME_overlay.png: the mask over the picture.

    What is yielded has `classes`, each with `name`, `pixels` and `share` of the picture, and perhaps `objects`, their number.

    Raises:
      UserError: two pictures would be written to the same files, or the run was not trained on pictures of 8 bits.
      RunError: the folder cannot be written.
    """
    channels, names = run.record.image_shape[-1], run.record.class_names
    if channels not in (1, 3) or run.record.dtype != "uint8":
        raise UserError(
            f"Picture files are grey or RGB; this run was trained on {channels} channels of {run.record.dtype}."
        )
    targets = _targets(paths, folder)
    segment = segmenter(run)
    for path, target in zip(paths, targets):
        try:
            image = pictures.read_picture(path, channels=channels, size=0, resize="crop")
        except pictures.BadPicture as error:
            yield path, str(error)
            continue
        mask = np.empty(image.shape[:2], np.uint8)
        for top, probabilities in segment(image):
            mask[top : top + len(probabilities)] = probabilities.argmax(-1)
        counts = np.bincount(mask.ravel(), minlength=len(names))
        said = [dict(name=name, pixels=int(n), share=round(n / mask.size, 6)) for name, n in zip(names, counts)]
        result = dict(classes=said)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_mask(target.with_name(f"{target.name}_mask.png"), mask)
            if run.record.has_objects:
                labels = objects(mask > 0, run.config.segmentation.smallest_object)
                result["objects"] = int(labels.max(initial=0))
                if result["objects"] > LARGEST_NUMBER:
                    raise RunError(
                        f"{path} has {result['objects']:,} objects: at most {LARGEST_NUMBER:,} can be numbered."
                    )
                Image.fromarray(labels.astype(np.uint16)).save(target.with_name(f"{target.name}_objects.png"))
            _write_overlay(target.with_name(f"{target.name}_overlay.png"), image, mask)
        except OSError as error:
            raise RunError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None
        yield path, result


def write_areas(folder: Path, rows: list[dict]) -> None:
    """areas.json: what `predict_files` yielded, with the file's name as `file`."""
    if rows:
        (folder / "areas.json").write_text(json.dumps(rows, indent=2) + "\n")


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


def _write_mask(path: Path, mask: np.ndarray) -> None:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette(palette().tobytes())
    image.save(path)


def _write_overlay(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    step = -(-max(mask.shape) // LARGEST_OVERLAY)
    Image.fromarray(overlay(image[::step, ::step], mask[::step, ::step])).save(path)

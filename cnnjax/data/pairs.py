"""A folder of a person's own pictures with masks, a class (or the number of an object) for every pixel.

Layouts, of DIR itself or of DIR/train and DIR/test (maybe DIR/validation): pictures in `images` and masks in `masks`, or
masks beside the pictures as NAME_mask.png; or two folders anywhere, `dir` and `masks`. Both may hold folders. A picture
and its mask have the same name but for the ending, and the same size; they are taken as large as they are.

Without DIR/test, the pictures whose names fit `test_files` are test, or a `test_fraction` of them. Splits come in an order
that is mixed, but depends on names alone.
"""

import fnmatch
import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import masks, split_spec
from cnnjax.data.folder import SPLIT_FOLDERS, listed, rank
from cnnjax.data.picture_scan import cores, listing, pictures_in, scan
from cnnjax.data.source import Batch, Dataset, Scenes, subset
from cnnjax.errors import RunError, Unreadable, UserError
from cnnjax.inputs.images import decoding

LAYOUTS = (
    "Expected: DIR/images/NAME.png and DIR/masks/NAME.png, or NAME.png and NAME_mask.png, in DIR or in DIR/train and "
    "DIR/test; or --config.source.dir=IMAGES --config.source.masks=MASKS."
)
IMAGES, MASKS = ("images", "image", "imgs", "img"), ("masks", "mask", "labels", "label", "annotations")
SUFFIX = "_mask"


class Pair(NamedTuple):
    """Paths, for a person and for reading."""

    name: str  # the picture's path inside its folder
    picture: str
    mask: str


def open_pairs(source, image, known: masks.Code | None = None) -> Dataset:
    """The pictures and masks under `source.dir`. All are decoded once.

    Args:
      known: how a trained network's masks were read: these have its classes, whichever of them occur.

    Raises:
      UserError: no such folder, pictures or masks without their other half, files that cannot be read, sizes that differ,
        values that stand for no class.
    """
    if image.size:
        raise UserError("config.input.size must be 0: images and masks are taken as large as they are.")
    splits = _splits(source)
    pairs = [pair for split in splits.values() for pair in split]
    code, found, looks, faults = _read_all(pairs, source, known)
    notes = [f"Masks are read as {code.kind} (--config.source.mask_kind): {len(code.class_names)} classes."]
    if faults:
        notes.append(_said_of(faults, pairs, source))
        whole = lambda pair: not {pair.picture, pair.mask} & faults.keys()
        splits = {name: [pair for pair in split if whole(pair)] for name, split in splits.items()}
    if "" in splits:
        splits = _cut(splits[""], source)
    for name, split in splits.items():
        if not split:
            raise UserError(f"No pair is left for {name} in {source.dir}.\n{LAYOUTS}")
    if known is None:
        _check_classes(code, [looks[pair.mask][0] for pair in splits["train"]], source, notes)
    ordered = {name: sorted(split, key=lambda pair: rank(pair.name)) for name, split in splits.items()}
    pairs = [pair for split in ordered.values() for pair in split]
    channels = image.channels or max(found[pair.picture].channels for pair in pairs)
    whole = Scenes(
        np.array([looks[pair.mask][0].shape[:2] for pair in pairs], np.int64),
        tuple(pair.name for pair in pairs),
        _Read(tuple(pairs), channels, code),
    )
    sizes = {name: len(split) for name, split in ordered.items()}
    digest = sorted((pair.name, found[pair.picture].sha256, looks[pair.mask][1]) for pair in pairs)
    return Dataset(
        name="folder",
        class_names=code.class_names,
        image_shape=(0, 0, channels),
        dtype=np.dtype(np.uint8),
        split_sizes=sizes,
        split=functools.partial(_split, whole, sizes),
        fingerprint=hashlib.sha256(json.dumps([digest, list(code)]).encode()).hexdigest(),
        has_objects=code.kind == "instances",
        mask_code=code,
        notes=tuple(notes),
    )


def _read_all(pairs: list[Pair], source, known: masks.Code | None) -> tuple[masks.Code, dict, dict, dict[str, str]]:
    """(how the masks are read, images by path, masks by path, what is wrong by path). All files are decoded once.

    Raises:
      UserError: no pair can be used, or the values of the masks stand for no classes.
    """
    legend = None if known else masks.read_legend(source.legend)
    colours = known.kind == "colour" if known else masks.names_colours(legend)
    found, faults = _scan([pair.picture for pair in pairs])
    looks, mask_faults = _look_at([pair.mask for pair in pairs if pair.picture in found], colours)
    faults |= mask_faults
    for pair in pairs:
        if pair.picture in found and pair.mask in looks:
            size, other = found[pair.picture][1:3], looks[pair.mask][0].shape[:2]
            if size != other:
                both = f"is {size[1]}x{size[0]} pixels, its mask {other[1]}x{other[0]}"
                faults[pair.picture] = both
    good = [pair for pair in pairs if not {pair.picture, pair.mask} & faults.keys()]
    if not good:
        raise UserError(f"None of the {len(pairs)} pairs in {source.dir} can be used: {listed(faults)}.")
    code = masks.code_of((looks[pair.mask][0] for pair in good), source.mask_kind, legend, source.ignore, known)
    for pair in good:
        if (value := code.stranger(looks[pair.mask][0])) is not None:
            shown = f"#{value:06x}" if code.kind == "colour" else value
            faults[pair.mask] = f"has pixels of {shown}, which is no class ({', '.join(code.class_names)})"
    return code, found, looks, faults


def _said_of(faults: dict[str, str], pairs: list[Pair], source) -> str:
    """A note on pairs that are left out. Raises UserError where none is to be."""
    count, named = f"{len(faults)} of {2 * len(pairs)} files", listed(faults)
    if not source.skip_bad_files:
        raise UserError(
            f"{count} in {source.dir} cannot be used: {named}.\n--config.source.skip_bad_files=true leaves them out."
        )
    return f"{count} cannot be used; their pairs were left out: {named}."


class _Read(NamedTuple):
    """`Scenes.read` of all pairs, split after split."""

    pairs: tuple[Pair, ...]
    channels: int
    code: masks.Code

    def __call__(self, index: int) -> Batch:
        pair = self.pairs[index]
        path = pair.picture
        try:
            image = decoding.read_image(path, channels=self.channels, size=0, resize="crop")
            path = pair.mask
            mask = decoding.read_stored(path, self.code.kind == "colour")
        except Unreadable as error:
            raise RunError(f"{path} {error}. It could be read when the run started.") from error
        if image.shape[:2] != mask.shape[:2]:
            raise RunError(f"{path} has changed its size since the run started.")
        return dict(image=image) | self.code.classes(mask)


def _split(whole: Scenes, sizes: dict[str, int], spec: str) -> Scenes:
    return subset(whole, split_spec.indices(spec, sizes))


def _splits(source) -> dict[str, list[Pair]]:
    """The pairs of each split; '' where they are yet to be cut."""
    if not source.dir:
        raise UserError(f"Which folder of pictures? Give it as --config.source.dir=DIR.\n{LAYOUTS}")
    root = Path(os.path.abspath(os.path.expanduser(source.dir)))
    if source.masks:
        return {"": _matched(_folder(root, "dir"), _folder(Path(source.masks).expanduser().absolute(), "masks"))}
    folders, _ = listing(_folder(root, "dir"))
    chosen = {
        split: next(folder for folder in folders if folder.lower() in names)
        for split, names in SPLIT_FOLDERS.items()
        if any(folder.lower() in names for folder in folders)
    }
    if "train" in chosen and "test" in chosen:
        return {split: _in_folder(root / folder) for split, folder in chosen.items()}
    return {"": _in_folder(root)}


def _folder(path: Path, knob: str) -> Path:
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"The folder {path} (config.source.{knob}) {what}.\n{LAYOUTS}")
    return path


def _in_folder(root: Path) -> list[Pair]:
    """The pairs of one folder, whichever way its masks are kept."""
    folders, _ = listing(root)
    images, labels = ([f for f in folders if f.lower() in names] for names in (IMAGES, MASKS))
    if len(images) == len(labels) == 1:
        return _matched(root / images[0], root / labels[0])
    paths, _ = pictures_in(root)
    ours = [path for path in paths if Path(path).stem.lower().endswith(SUFFIX)]
    if not ours:
        raise UserError(f"{root} holds no masks.\n{LAYOUTS}")
    others = sorted(set(paths) - set(ours))
    name_of = lambda path: os.path.splitext(path)[0][: -len(SUFFIX)]
    return _paired(root, others, root, ours, name_of)


def _matched(images: Path, labels: Path) -> list[Pair]:
    pictures_here, masks_here = (pictures_in(folder)[0] for folder in (images, labels))
    for folder, files in ((images, pictures_here), (labels, masks_here)):
        if not files:
            raise UserError(f"There are no pictures ({', '.join(decoding.SUFFIXES)}) in {folder}.\n{LAYOUTS}")
    plain = lambda path: os.path.splitext(path)[0]
    suffixed = all(plain(path).lower().endswith(SUFFIX) for path in masks_here)
    return _paired(
        images, pictures_here, labels, masks_here, (lambda p: plain(p)[: -len(SUFFIX)]) if suffixed else plain
    )


def _paired(images: Path, image_paths, labels: Path, mask_paths, name_of) -> list[Pair]:
    """Raises UserError, naming them, where a picture or a mask is alone or has two partners."""
    pictures_by_name, masks_by_name = {}, {}
    for paths, by_name, name in (
        (image_paths, pictures_by_name, lambda p: os.path.splitext(p)[0]),
        (mask_paths, masks_by_name, name_of),
    ):
        for path in paths:
            if (other := by_name.setdefault(name(path), path)) != path:
                raise UserError(f"{other} and {path} in {images} and {labels} have the same name: keep one of them.")
    alone = [
        f"picture {pictures_by_name[n]} has no mask" for n in sorted(pictures_by_name.keys() - masks_by_name.keys())
    ]
    alone += [f"mask {masks_by_name[n]} has no picture" for n in sorted(masks_by_name.keys() - pictures_by_name.keys())]
    if alone:
        raise UserError(f"In {images}: {listed(alone)}.\nA picture and its mask have the same name but for the ending.")
    return [
        Pair(path, str(images / path), str(labels / masks_by_name[name]))
        for name, path in sorted(pictures_by_name.items())
    ]


def _scan(paths: list[str]):
    """`picture_scan.scan` of absolute paths."""
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    inside = {os.path.relpath(path, root): path for path in paths}
    found, faults = scan(root, list(inside))
    return {inside[p]: f for p, f in found.items()}, {inside[p]: f for p, f in faults.items()}


def _look_at(paths: list[str], colours: bool) -> tuple[dict[str, tuple[masks.Look, str]], dict[str, str]]:
    """({path: (look, hash of the file)}, {path: what is wrong with it})."""

    def look(path: str):
        try:
            content = decoding.content(path)
            return masks.look_at(decoding.read_stored(path, colours)), hashlib.sha256(content).hexdigest()
        except Unreadable as error:
            return str(error)

    with ThreadPoolExecutor(cores()) as pool:
        looks = dict(zip(paths, pool.map(look, paths)))
    wrong = {path: result for path, result in looks.items() if isinstance(result, str)}
    return {path: result for path, result in looks.items() if path not in wrong}, wrong


def _cut(pairs: list[Pair], source) -> dict[str, list[Pair]]:
    """Train and test, by names or by a fraction."""
    if patterns := [p for p in source.test_files.split(",") if p]:
        fits = lambda pair: any(fnmatch.fnmatchcase(os.path.basename(pair.name), p) for p in patterns)
        test = [pair for pair in pairs if fits(pair)]
        if not test or len(test) == len(pairs):
            many = "all" if test else "none"
            raise UserError(f"config.source.test_files={source.test_files} fits {many} of the {len(pairs)} pictures.")
    elif len(pairs) < 2:
        raise UserError(
            f"There is one pair in {source.dir}: at least two are needed, one to learn from and one for test."
        )
    else:
        ranked = sorted(pairs, key=lambda pair: rank(pair.name))
        test = ranked[: min(max(1, round(source.test_fraction * len(pairs))), len(pairs) - 1)]
    return dict(train=[pair for pair in pairs if pair not in set(test)], test=test)


def _check_classes(code: masks.Code, looks: list[masks.Look], source, notes: list[str]) -> None:
    """Notes classes that never occur in train. Raises UserError where only one does: there is nothing to learn."""
    values = np.unique(np.concatenate([code.seen(look) for look in looks]))
    values = values[values != source.ignore]
    if code.kind in ("binary", "instances"):
        there = {0} & set(values.tolist()) | ({1} if (values > 0).any() else set())
    else:
        there = {number for number, value in enumerate(code.values) if value in values}
    if len(there) < 2:
        only = f"but {code.class_names[min(there)]}" if there else "that counts"
        raise UserError(f"The masks of train in {source.dir} hold nothing {only}: there is nothing to learn.")
    if missing := [name for number, name in enumerate(code.class_names) if number not in there]:
        notes.append(f"Classes that no mask of train holds: {listed(missing)}.")

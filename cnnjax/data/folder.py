"""A folder of a person's own pictures as a data set.

Two layouts: DIR/train/CLASS/* with DIR/test/CLASS/* and maybe DIR/validation/CLASS/*, or DIR/CLASS/* alone, from which
`test_fraction` of each class is cut off for test. Below a class folder, pictures may lie in folders of any depth.
Names that begin with a dot are skipped, links are followed, files with other suffixes are not looked at.

Each split comes in an order that is mixed (so that 'train[:90%]' holds every class) but depends on the pictures' paths
inside DIR alone, on no seed: the test pictures of a folder are always the same, and one more picture hardly moves them.
"""

import functools
import hashlib
import json
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import split_spec
from cnnjax.data.picture_scan import Found, cores, list_pictures, listing, pictures_in, scan
from cnnjax.data.source import Batch, Dataset, Split, subset
from cnnjax.errors import RunError, Unreadable, UserError
from cnnjax.inputs.images import decoding

__all__ = ["list_pictures", "open_folder", "scan"]

LAYOUTS = "Expected: DIR/CLASS/*.png, or DIR/train/CLASS/*.png and DIR/test/CLASS/*.png (png, jpg, jpeg, bmp, webp, tif, tiff)."
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
THREADED_PIXELS = 100 * 100  # of a stored picture on average: for smaller ones, threads cost more than they bring
MIXED_SIZE = 128  # pixels: pictures of several sizes are brought to this, where no size is asked for

Tree = dict[str, dict[str, list[str]]]  # split -> class -> paths inside the folder, with '/'


def open_folder(source, image) -> Dataset:
    """The images under `source.dir`, in the form that `image` asks for: options of a class folder and of images. Each is decoded once, in threads; the result is remembered in the cache.

    Raises:
      UserError: no such folder, a layout other than the two, a class missing, or pictures that cannot be read.
    """
    root = _root(source)
    tree, notes = _tree(root)
    _check_classes(root, tree)
    found, faults = scan(root, [path for classes in tree.values() for paths in classes.values() for path in paths])
    if faults:
        count, named = f"{len(faults)} of {len(found) + len(faults)} pictures", listed(faults)
        if not source.skip_bad_files:
            hint = "--config.source.skip_bad_files=true leaves them out."
            raise UserError(f"{count} in {root} cannot be used: {named}.\n{hint}")
        notes.append(f"{count} cannot be used and were left out: {named}.")
        tree = {s: {c: [p for p in paths if p in found] for c, paths in cs.items()} for s, cs in tree.items()}
        _check_classes(root, tree)
    if "" in tree:
        tree, lonely = _cut(tree[""], source.test_fraction)
        if lonely:
            notes.append(f"Classes of one picture, which are missing from test: {', '.join(lonely)}.")

    class_names = tuple(sorted(tree["train"]))
    files, labels, sizes = [], [], {}
    for split, classes in tree.items():
        labelled = [(path, class_names.index(name)) for name, paths in classes.items() for path in paths]
        labelled.sort(key=lambda example: rank(example[0]))
        files += [path for path, _ in labelled]
        labels += [label for _, label in labelled]
        sizes[split] = len(labelled)
    shape, size = _shape(image, found, notes)
    threaded = np.mean([f.height * f.width for f in found.values()]) >= THREADED_PIXELS
    read = _Read(str(root), tuple(files), np.array(labels, np.int32), shape, size, image.resize, bool(threaded))
    return Dataset(
        name="folder",
        class_names=class_names,
        image_shape=shape,
        dtype=np.dtype(np.uint8),
        split_sizes=sizes,
        split=functools.partial(_split, Split(len(files), read), sizes),
        fingerprint=hashlib.sha256(json.dumps(sorted((p, found[p].sha256) for p in files)).encode()).hexdigest(),
        notes=tuple(notes),
    )


class _Read(NamedTuple):
    """`Split.read` of all examples of the folder, split after split."""

    root: str
    files: tuple[str, ...]
    labels: np.ndarray  # [n] int32
    shape: tuple[int, int, int]
    size: int  # 0: pictures are stored in this shape
    resize: str
    threaded: bool

    def __call__(self, indices: np.ndarray) -> Batch:
        indices = np.asarray(indices)
        images = np.empty((len(indices), *self.shape), np.uint8)

        def fill(row: int) -> None:
            images[row] = self._picture(self.files[indices[row]])

        workers = min(cores(), len(indices)) if self.threaded else 1
        if workers > 1:  # Pillow decodes outside the interpreter's lock
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill, range(len(indices))))  # a list, for exceptions to come out
        else:
            for row in range(len(indices)):
                fill(row)
        return {"image": images, "label": self.labels[indices]}

    def _picture(self, path: str) -> np.ndarray:
        full = os.path.join(self.root, path)
        try:
            image = decoding.read_image(full, channels=self.shape[2], size=self.size, resize=self.resize)
        except Unreadable as error:
            raise RunError(f"{full} {error}. It could be read when the run started.") from error
        if image.shape != self.shape:
            now = f"{image.shape[1]}x{image.shape[0]}"
            raise RunError(f"{full} is now {now} pixels. It was of another size when the run started.")
        return image


def _split(whole: Split, sizes: dict[str, int], spec: str) -> Split:
    return subset(whole, split_spec.indices(spec, sizes))


def _root(source) -> Path:
    if not source.dir:
        raise UserError(f"Which folder of pictures? Give it as --config.source.dir=DIR.\n{LAYOUTS}")
    root = Path(os.path.abspath(os.path.expanduser(source.dir)))  # worker processes may run elsewhere
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"The folder of pictures {root} (config.source.dir) {what}.\n{LAYOUTS}")
    return root


def _tree(root: Path) -> tuple[Tree, list[str]]:
    """The paths of all pictures, by split and class (layout DIR/CLASS: one split, ''), and notes for a person."""
    folders, loose = listing(root)
    splits = {split: [f for f in folders if f.lower() in names] for split, names in SPLIT_FOLDERS.items()}
    for split, names in splits.items():
        if len(names) > 1 and splits["train"]:
            raise UserError(f"{root} has several folders for {split}: {', '.join(names)}. Keep one of them.")
    notes = []
    if splits["train"] and (splits["test"] or splits["validation"]):
        chosen = {split: names[0] for split, names in splits.items() if names}
        if others := [f for f in folders if f not in chosen.values()]:
            notes.append(f"Not looked at in {root}: {listed(others)}.")
    elif [f for f in folders if f not in splits["train"]]:
        chosen = {"": ""}
    elif folders:
        only = root / folders[0]
        raise UserError(f"There is {only} but no test beside it.\nAdd it, or give {only}, to have it cut off there.")
    else:
        raise UserError(f"{root} holds no folders, so there are no classes.\n{LAYOUTS}")
    if loose_pictures := [f for f in loose if f.lower().endswith(decoding.SUFFIXES)]:
        notes.append(f"Pictures that belong to no class, since they lie in {root} itself: {listed(loose_pictures)}.")

    tree = {}
    for split, folder in chosen.items():
        tree[split] = {}
        for name in listing(root / folder)[0]:
            inside = posixpath.join(folder, name)
            paths, others = pictures_in(root / inside)
            if not paths:
                what = "no pictures" + (f", only {others} other file{'s' * (others > 1)}" if others else "")
                raise UserError(f"The class folder {root / inside} holds {what}. Remove it, or add some.\n{LAYOUTS}")
            tree[split][name] = [posixpath.join(inside, path) for path in paths]
    return tree, notes


def _check_classes(root: Path, tree: Tree) -> None:
    first = next(iter(tree))
    classes = tree[first]
    if len(classes) < 2:
        has = f"only one class folder, {next(iter(classes))}" if classes else "no class folders"
        where = f"The {first} folder of {root}" if first else str(root)
        raise UserError(f"{where} has {has}: at least two classes are needed.\n{LAYOUTS}")
    for split, others in tree.items():
        where = f" in {split}" if split else " that can be read"
        if extra := sorted(set(others) - set(classes)):
            raise UserError(f"Class {extra[0]!r} is in {split} but not in train, in {root}: it could not be learnt.")
        if missing := [name for name in classes if not others.get(name)]:
            raise UserError(f"Class {missing[0]!r} has no pictures{where}, in {root}: it needs at least one there.")


def _cut(classes: dict[str, list[str]], fraction: float) -> tuple[Tree, list[str]]:
    """Cuts `fraction` of each class off for test, at least one and never all -> (tree, classes of a single picture)."""
    tree = {"train": {}, "test": {}}
    for name, paths in classes.items():
        ranked = sorted(paths, key=rank)
        count = min(max(1, round(fraction * len(paths))), len(paths) - 1)
        tree["test"][name], tree["train"][name] = ranked[:count], ranked[count:]
    return tree, [name for name, paths in classes.items() if len(paths) == 1]


def rank(path: str) -> bytes:
    """A place in an order that is mixed, but the same everywhere and for ever."""
    return hashlib.sha256(os.fsencode(path)).digest()


def _shape(image, found: dict[str, Found], notes: list[str]) -> tuple[tuple[int, int, int], int]:
    """((H, W, C) of the examples, side to bring pictures to or 0 for as stored); may add a note."""
    channels = image.channels or max(f.channels for f in found.values())
    if image.size:
        return (image.size, image.size, channels), image.size
    shapes = {(f.height, f.width) for f in found.values()}
    if len(shapes) == 1:
        return (*shapes.pop(), channels), 0
    notes.append(
        f"The pictures are of {len(shapes)} sizes and were brought to {MIXED_SIZE}x{MIXED_SIZE} ({image.resize}); "
        "--config.input.size=N chooses another size."
    )
    return (MIXED_SIZE, MIXED_SIZE, channels), MIXED_SIZE


def listed(names, limit: int = 5) -> str:
    """'a is empty; b is truncated; and 3 more' for the keys (and values) of a dict or for a list of names."""
    texts = [f"{name} {what}" for name, what in names.items()] if isinstance(names, dict) else list(names)
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join(texts[:limit] + more)

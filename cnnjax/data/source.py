"""What every data source offers: named splits of examples that can be read at any index."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]


class Split(NamedTuple):
    """Examples that can be read at any index.

    `read(indices [n]) -> {'image': [n, H, W, C] uint8 | uint16 | float32, 'label': [n] int32}`; it can be pickled, so
    that worker processes can call it. Where every pixel has a class, `'mask'` [n, H, W] uint8 stands instead of the label.
    """

    size: int
    read: Callable[[np.ndarray], Batch]
    draw: Callable[[np.ndarray, np.ndarray, int], Batch] | None = (
        None  # (indices, epochs, seed): another part each epoch
    )
    held: bool = False  # in host memory, so that reading takes no time


IGNORED = 255  # in a mask: a pixel that counts for nothing


class Scenes(NamedTuple):
    """Pictures of any sizes with a class for every pixel.

    `read(i) -> {'image': [H, W, C] as stored, 'mask': [H, W] uint8}`, and where objects are told apart `'instances'`:
    [H, W] uint16 (0: no object); the mask is 1 where there is one. It can be pickled.
    """

    sizes: np.ndarray  # [n, 2] int64: height and width of each
    names: tuple[str, ...]  # of each, for a person
    read: Callable[[int], Batch]

    @property
    def size(self) -> int:
        return len(self.sizes)


class Dataset(NamedTuple):
    """A data set. Its pictures all have one shape; where every pixel has a class, `image_shape` is (0, 0, C).

    `split(spec) -> Split` (or Scenes, where every pixel has a class) takes what tfds takes ('train', 'train[:90%]') and raises UserError for an unknown name.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: np.dtype
    split_sizes: dict[str, int]
    split: Callable[[str], Any]  # Split, or Scenes
    fingerprint: str  # of the examples: changes when they do
    former_fingerprints: tuple[str, ...] = ()  # which earlier versions gave to the same examples
    has_objects: bool = False  # whether scenes have `instances`
    mask_code: Any = None  # masks.Code: how the files of masks are read, of a set that was told or found it out
    notes: tuple[str, ...] = ()  # what a person should know: files that were left out, classes missing from test


def subset(split, indices: np.ndarray):
    """The examples of a Split (or of Scenes) at the given indices [n], in that order."""
    if isinstance(split, Scenes):
        names = tuple(split.names[i] for i in indices)
        return Scenes(split.sizes[indices], names, _Subset(split.read, np.asarray(indices)))
    return Split(len(indices), _Subset(split.read, np.asarray(indices)))


class _Subset(NamedTuple):
    read: Callable[[np.ndarray], Batch]
    indices: np.ndarray

    def __call__(self, positions: np.ndarray) -> Batch:
        return self.read(self.indices[positions])

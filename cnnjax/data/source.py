"""What every data source offers: named splits of examples that can be read at any index."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]


class Split(NamedTuple):
    """Examples that can be read at any index.

    `read(indices [n]) -> {'image': [n, H, W, C] uint8 | uint16 | float32, 'label': [n] int32}`; it can be pickled, so
    that worker processes can call it.
    """

    size: int
    read: Callable[[np.ndarray], Batch]


class Dataset(NamedTuple):
    """A data set whose pictures all have one shape.

    `split(spec) -> Split` takes what tfds takes ('train', 'train[:90%]') and raises UserError for an unknown name.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: np.dtype
    split_sizes: dict[str, int]
    split: Callable[[str], Split]
    fingerprint: str  # of the examples: changes when they do
    notes: tuple[str, ...] = ()  # what a person should know: files that were left out, classes missing from test


class Statistics(NamedTuple):
    """Of the pixel values of the training split, brought to [0, 1]."""

    mean: np.ndarray  # [C]
    std: np.ndarray  # [C]
    components: np.ndarray  # [C, C]: columns are the covariance's eigenvectors times the roots of its eigenvalues


def subset(split: Split, indices: np.ndarray) -> Split:
    """The examples of a split at the given indices [n], in that order."""
    return Split(len(indices), _Subset(split.read, np.asarray(indices)))


class _Subset(NamedTuple):
    read: Callable[[np.ndarray], Batch]
    indices: np.ndarray

    def __call__(self, positions: np.ndarray) -> Batch:
        return self.read(self.indices[positions])

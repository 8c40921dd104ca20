"""Mean, deviation and principal components of training images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

READ_BLOCK = 256  # examples that are decoded at once
STATISTICS_EXAMPLES = 50_000  # more do not change three digits of a mean; a large set is read in part


class Statistics(NamedTuple):
    """Of the pixel values of the training split, brought to [0, 1]."""

    mean: np.ndarray  # [C]
    std: np.ndarray  # [C]
    components: np.ndarray  # [C, C]: columns are the covariance's eigenvectors times the roots of its eigenvalues


def _blocks(split) -> Iterator[np.ndarray]:
    """Images `[..., C]` that stand for a split: at most 50,000, evenly spread."""
    indices = np.linspace(0, split.size - 1, min(split.size, STATISTICS_EXAMPLES)).astype(np.int64)
    if hasattr(split, "sizes"):
        yield from (split.read(index)["image"] for index in indices)
        return
    for start in range(0, len(indices), READ_BLOCK):
        yield split.read(indices[start : start + READ_BLOCK])["image"]


def statistics(split) -> Statistics:
    """Mean, deviation and principal components of the pixel values of a split (evenly spread, at most 50,000 examples)."""
    pixels, total, products = 0, 0.0, 0.0
    for image in _blocks(split):
        scale = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
        # One product of the block with itself gives all sums of squares, in float64 so that no digit is lost.
        values = image.reshape(-1, image.shape[-1]).astype(np.float64) / scale
        pixels, total, products = pixels + len(values), total + values.sum(0), products + values.T @ values
    mean = total / pixels
    covariance = products / pixels - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    std = np.sqrt(np.maximum(np.diag(covariance), 0))
    constant = std < 1e-6  # a channel that never changes is only centred
    return Statistics(
        mean.astype(np.float32),
        np.where(constant, 1, std).astype(np.float32),
        (directions * np.sqrt(np.maximum(variances, 0))).astype(np.float32),
    )

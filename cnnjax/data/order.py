"""In which order a run sees its examples: a function of the seed alone, the same for any source and number of processes."""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch `[size]`: a uniform shuffle that (seed, epoch) determines."""
    order = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(size)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """The examples `[batch_size]` of batch number `step`.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the next, and every batch is
    full, also where it is larger than the whole split.
    """
    epochs, places = _positions(step, batch_size, size)
    indices = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permutation(seed, int(epoch), size)[places[here]]
    return indices


def batch_epochs(step: int, batch_size: int, size: int) -> np.ndarray:
    """Of which epoch each example `[batch_size]` of batch number `step` is."""
    return _positions(step, batch_size, size)[0]


def _positions(step: int, batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, places in their order), `[batch_size]` each."""
    return np.divmod(np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64), size)


def validation_cut(size: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of (train, validation): a random cut that no seed changes, so that runs with several seeds share it.

    At least one example goes to validation, and at least one stays.
    """
    order = np.random.Generator(np.random.Philox(key=np.array([0, 2**63], np.uint64))).permutation(size)
    count = min(max(1, round(size * fraction)), size - 1)
    return np.sort(order[count:]), np.sort(order[:count])

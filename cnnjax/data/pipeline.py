"""From a split to batches: in memory, on the device, or streamed from disk; and from batches to the device.

A training batch is a dict of `image` `[B, H, W, C]` as stored, `label` `[B]` int32 (or `mask` `[B, H, W]` uint8), `weight` `[B]` float32 of ones and
`position` `[B]` int32, the example's place in the batch (the source of its randomness). Batch n is a function of (seed, n).
Of several processes, each reads those rows of a batch that its own devices hold.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnjax.data.order import batch_epochs, batch_indices
from cnnjax.data.picture_scan import cores
from cnnjax.data.source import Batch, Scenes, Split
from cnnjax.data.workers import Yielding, deaf_to_signals, end_with_parent, quick_turns
from cnnjax.errors import RunError

MEGABYTE = 2**20
READ_BLOCK = 256  # examples that are decoded at once when a split is read into memory
OF_A_SCENE = 7  # bytes a pixel beside the picture: mask, number of the object, weight


def in_memory(split: Split | Scenes) -> Split | Scenes:
    """The same examples, decoded once into host memory."""
    if isinstance(split.read, _Gather | _Pick):
        return split
    if isinstance(split, Scenes):
        with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes outside the interpreter's lock
            return split._replace(read=_Pick(list(pool.map(split.read, range(split.size)))))
    blocks = [split.read(np.arange(i, min(i + READ_BLOCK, split.size))) for i in range(0, split.size, READ_BLOCK)]
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return Split(split.size, _Gather(arrays), held=True)


class _Gather(NamedTuple):
    arrays: Batch

    def __call__(self, indices: np.ndarray) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}


def is_held(scenes: Scenes) -> bool:
    """Whether scenes are in memory."""
    return isinstance(scenes.read, _Pick)


class _Pick(NamedTuple):
    """`Scenes.read` of scenes in memory."""

    scenes: list[Batch]

    def __call__(self, index: int) -> Batch:
        return self.scenes[index]


def megabytes(split: Split | Scenes, image_shape: tuple[int, ...], dtype: np.dtype) -> float:
    """What pictures take when decoded; of scenes, with all that belongs to their pixels."""
    if isinstance(split, Scenes):
        return int(split.sizes.prod(1).sum()) * (image_shape[-1] * np.dtype(dtype).itemsize + OF_A_SCENE) / MEGABYTE
    return split.size * int(np.prod(image_shape)) * np.dtype(dtype).itemsize / MEGABYTE


def _with_places(batch: Batch, places: np.ndarray) -> Batch:
    return batch | dict(weight=np.ones(len(places), np.float32), position=places.astype(np.int32))


class TrainBatch(NamedTuple):
    """Training batch number `step`, for any thread or process."""

    split: Split
    seed: int
    batch_size: int
    rows: np.ndarray | None = None  # which are read, in order; None: all

    @property
    def places(self) -> np.ndarray:
        return np.arange(self.batch_size) if self.rows is None else self.rows

    def indices(self, step: int) -> np.ndarray:
        """Which examples the rows hold."""
        return batch_indices(self.seed, int(step), self.batch_size, self.split.size)[self.places]

    def __call__(self, step: int) -> Batch:
        indices = self.indices(step)
        if self.split.draw is None:
            return _with_places(self.split.read(indices), self.places)
        epochs = batch_epochs(int(step), self.batch_size, self.split.size)[self.places]
        return _with_places(self.split.draw(indices, epochs, self.seed), self.places)


class EvaluationBatch(NamedTuple):
    """Evaluation batch number `n`: every example once, in order; the last is filled up with copies that weigh nothing."""

    split: Split
    batch_size: int
    rows: np.ndarray | None = None  # which are read, in order; None: all

    @property
    def count(self) -> int:
        return -(-self.split.size // self.batch_size)

    def __call__(self, n: int) -> Batch:
        rows = np.arange(self.batch_size) if self.rows is None else self.rows
        places = rows + int(n) * self.batch_size
        batch = _with_places(self.split.read(np.minimum(places, self.split.size - 1)), rows)
        return batch | dict(weight=(places < self.split.size).astype(np.float32))


@contextlib.contextmanager
def batches(batch: Callable[[int], Batch], start: int, stop: int, workers: int = 0) -> Iterator[Iterator[Batch]]:
    """Opens the batches start .. stop - 1. Those of a split that is not in memory are read ahead by Grain.

    Grain reads in threads of this process, or in `workers` processes, which are gone when the context is left. Where JAX
    computes on the CPU, they leave the cores to it.
    """
    if batch.split.held:
        yield map(batch, range(start, stop))
        return
    import grain
    import jax
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, which our command line does not hold
        flags.FLAGS.mark_as_parsed()
    read = Yielding(batch) if jax.default_backend() == "cpu" else batch
    numbers = grain.MapDataset.range(start, stop).map(read)
    stream = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0 if workers else 4, prefetch_buffer_size=8))
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, worker_init_fn=end_with_parent)
    with deaf_to_signals():
        iterator = iter(stream)
        first = list(itertools.islice(iterator, 1))  # only now are the workers there
    try:
        with quick_turns():
            yield _unless_a_worker_died(itertools.chain(first, iterator))
    finally:
        getattr(iterator, "close", lambda: None)()


def _unless_a_worker_died(iterator: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from iterator
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise RunError(
            "A process that reads data died, perhaps for want of memory. Give the same command again, with a smaller "
            "--config.data.workers if it happens again."
        ) from error


@contextlib.contextmanager
def resident_batches(
    batch: TrainBatch, start: int, stop: int, replicate: Callable, place: Callable
) -> Iterator[Iterator[dict]]:
    """The same training batches, gathered on the devices from a copy of the whole split that lives on each.

    `replicate` puts host arrays on every device; `place` divides them, so that each device gathers its own part alone.
    """
    import jax  # here, so that reading workers do not load it

    resident = replicate(in_memory(batch.split).read.arrays)
    places = place({k: v for k, v in batch(start).items() if k in ("weight", "position")}) if stop > start else {}
    gather = jax.jit(lambda arrays, indices: jax.tree.map(lambda array: array[indices], arrays))

    def gathered(step: int) -> dict:
        return gather(resident, place(batch.indices(step))) | places

    yield map(gathered, range(start, stop))


def ahead(items: Iterator, place: Callable, depth: int = 2) -> Iterator:
    """Places items on the device `depth` ahead of their use, so that a step never waits for a transfer."""
    queue = collections.deque()
    for item in items:
        queue.append(place(item))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue

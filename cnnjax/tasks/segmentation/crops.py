"""Training on parts of pictures: crops of one shape at random places of scenes of any sizes.

An epoch takes as many crops of each picture as cover its area once, so that a large picture counts for more than a small
one. Which crop an example is depends on (seed, epoch, example) alone.
"""

from typing import NamedTuple

import numpy as np

from cnnjax.data.mirror import cut
from cnnjax.data.source import Batch, Scenes, Split


def crops(scenes: Scenes, side: int, target: int, held: bool = True) -> Split:
    """Crops `[side, side]` of scenes, of whose middle `[target, target]` the network says something.

    That middle lies within the picture, uniformly, where the picture is large enough; what reaches beyond is mirrored.
    `held`: the scenes are in memory, so that a crop takes no time.
    """
    counts = np.maximum(1, np.round(scenes.sizes.prod(1) / target**2)).astype(np.int64)
    draw = _Draw(scenes, np.repeat(np.arange(scenes.size), counts), side, target)
    return Split(len(draw.pictures), draw.first, draw, held)


class _Draw(NamedTuple):
    """`Split.draw` of crops."""

    scenes: Scenes
    pictures: np.ndarray  # [n]: the scene of each example
    side: int
    target: int

    def __call__(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        examples = [self._crop(int(index), int(epoch), seed) for index, epoch in zip(indices, epochs)]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def first(self, indices: np.ndarray) -> Batch:
        """`Split.read`: the crops of the first epoch of seed 0."""
        return self(indices, np.zeros(len(indices), np.int64), 0)

    def _crop(self, index: int, epoch: int, seed: int) -> Batch:
        random = np.random.Generator(np.random.Philox(key=np.array([seed, epoch * 2**32 + index], np.uint64)))
        picture = self.pictures[index]
        scene, size = self.scenes.read(picture), self.scenes.sizes[picture]
        place = [int(random.integers(min(0, free), max(0, free) + 1)) for free in size - self.target]
        context = (self.side - self.target) // 2
        top, left = (start - context for start in place)
        return {
            name: cut(array, top, left, self.side, self.side) for name, array in scene.items() if name in TRAINED_ON
        }


TRAINED_ON = ("image", "mask", "pixel_weight")

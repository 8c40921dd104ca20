"""Whole pictures of any size through a network that takes pictures of one size, without a trace of the seams.

The overlap-tile strategy of Ronneberger, Fischer & Brox 2015 (section 2, figure 2): the picture, mirrored at its border,
is cut into tiles that overlap so far that the middle of each, which is kept, sees nothing of where the tile ends. How far
that is says the field of view. Tiles begin at multiples of the network's total stride, so that pooling windows fall on
the same pixels in all of them: the result is that of the whole picture at once, to rounding.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.mirror import cut
from cnnjax.data.source import IGNORED, Batch, Scenes, Split
from cnnjax.errors import UserError
from cnnjax.inspection.field_of_view import field_of_view

LARGEST = 2048  # pixels: a network that sees further is not tiled
USUAL = 512  # pixels: enough to see the reach of most


class Tiling(NamedTuple):
    """Square tiles of `tile` pixels, of which `kept` are kept, from `before` on; `output` is what the network gives."""

    tile: int
    kept: int
    before: int
    output: int

    def grid(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of what each tile keeps, row by row."""
        return [(top, left) for top in range(0, height, self.kept) for left in range(0, width, self.kept)]


class Reach(NamedTuple):
    """What a network's geometry asks of tiles, in pixels."""

    stride: int  # tiles begin at multiples of it
    margin: int  # so far from its ends the output is touched by where the input ends
    shrinks: int  # by how much the output is smaller than the input, both sides together


def reach_of(function: Callable[[jax.Array], jax.Array], channels: int, stride: int, name: str, side: int) -> Reach:
    """The reach of a function of pictures `[1, H, W, C]` -> `[1, h, w, K]`, from its field of view.

    Args:
      stride: the total stride: a shift of the picture by it is a shift of the output.
      name: of the network, for messages.
      side: a size that the function takes; so are `side + n * stride`.

    Raises:
      UserError: each position sees the whole picture (through GroupNorm or a gate, say): there is no margin.
    """
    side += max(0, -(-(USUAL - side) // stride)) * stride
    while side <= 2 * LARGEST:
        views = field_of_view(function, jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32))
        margin = max(_margin(view, stride) for view in views)
        if 4 * margin < side:  # the ends touch each their own part
            return Reach(stride, margin, side - len(views[0].low))
        side += side // stride * stride
    raise UserError(
        f"{name} sees the whole picture from each of its pixels (by GroupNorm, a gate or a global pool), so that tiles "
        "would change its answer: it cannot be evaluated on whole pictures. Take --config.model.normalization=batch or none."
    )


def _margin(view, stride: int) -> int:
    """At how many output positions, at each end, what is seen does not move on with them as it does in the middle."""
    ends = np.stack([view.low, view.high])[:, : len(view.low) // stride * stride].reshape(2, -1, stride)
    follows = (np.diff(ends, axis=1) == stride).all((0, 2))  # from each block of positions to the next
    blocks = np.flatnonzero(~follows)
    half = len(follows) // 2
    before = blocks[blocks < half].max(initial=-1) + 1
    after = len(follows) - blocks[blocks >= half].min(initial=len(follows))
    return int(max(before, after)) * stride


def tiling_for(reach: Reach, largest: int, most: int, margin: int = -1, first: int = 0) -> Tiling:
    """Tiles for pictures of sides up to `largest`, no larger than `most` pixels a side where that is possible.

    Args:
      margin: pixels of the output that are thrown away on each side; -1: as many as the input's ends touch, which is exact.
      first: a side that the network takes; so it does others that differ by multiples of the stride.

    Raises:
      UserError: `most` leaves nothing to keep.
    """
    stride, context = reach.stride, reach.shrinks // 2
    wanted = reach.margin if margin < 0 else margin
    before = context + -(-wanted // stride) * stride  # of the input; what is kept begins there
    thrown = 2 * before
    needed = thrown + -(-largest // stride) * stride
    fitting = lambda side: side + (first - side) % stride  # the next that the network takes
    tile = fitting(max(thrown + stride, min(needed, most - stride + 1)))
    if tile > most:
        raise UserError(
            f"config.task.tile={most} is too small: with margins of {before} pixels on each side this network "
            f"needs at least {fitting(thrown + stride)}."
        )
    kept = (tile - thrown) // stride * stride
    return Tiling(tile, kept, before, tile - reach.shrinks)


def tiles(scenes: Scenes, tiling: Tiling, held: bool = True) -> Split:
    """The tiles of scenes as examples of one shape, picture after picture, row by row.

    Examples hold `image` `[tile, tile, C]`, `mask` `[tile, tile]`, IGNORED but for what the tile keeps of its picture,
    `tile` `[7]` int32: picture, its height and width, top and left of what is kept, how far into the tile that begins, and
    how many pixels a side are kept; and `instances` where there are any.
    """
    places = [
        (picture, int(height), int(width), top, left, tiling.before, tiling.kept)
        for picture, (height, width) in enumerate(scenes.sizes)
        for top, left in tiling.grid(int(height), int(width))
    ]
    return Split(
        len(places), _Tiles(_Recent(scenes.read), np.array(places, np.int32).reshape(-1, 7), tiling), held=held
    )


class _Tiles(NamedTuple):
    """`Split.read` of tiles."""

    read: Callable[[int], Batch]
    places: np.ndarray
    tiling: Tiling

    def __call__(self, indices: np.ndarray) -> Batch:
        examples = [self._tile(self.places[index]) for index in indices]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def _tile(self, place: np.ndarray) -> Batch:
        picture, height, width, top, left, before, kept = map(int, place)
        side = self.tiling.tile
        scene = self.read(picture)
        example = {name: cut(array, top - before, left - before, side, side) for name, array in scene.items()}
        mask = np.full((side, side), IGNORED, np.uint8)
        rows, columns = min(kept, height - top), min(kept, width - left)
        inside = slice(before, before + rows), slice(before, before + columns)
        mask[inside] = example["mask"][inside]
        return example | dict(mask=mask, tile=place)


class _Recent:
    """Remembers the last picture that was read: tiles come picture by picture."""

    def __init__(self, read: Callable[[int], Batch]):
        self._read, self._last = read, (-1, {})

    def __call__(self, index: int) -> Batch:
        last = self._last
        if last[0] != index:
            last = self._last = (index, self._read(index))
        return last[1]

    def __reduce__(self):
        return _Recent, (self._read,)


BATCH = 4  # tiles that go through the network at once


def stitched(
    predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, tiling: Tiling, blend: bool = False, stride: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """A picture `[H, W, C]` through `predict`, `[BATCH, tile, tile, C] -> [BATCH, h, w, K]`, row of tiles by row of tiles.

    Yields (top, values `[rows, W, K]`), which follow each other without a gap; no more than a row of tiles is held.

    Args:
      blend: what neighbouring tiles keep overlaps by half, and is averaged with weights that fall towards the edges.
      stride: the network's total stride, of which steps from tile to tile are multiples.
    """
    height, width = image.shape[:2]
    kept, side, before = tiling.kept, tiling.tile, tiling.before
    step = max(stride, kept // 2 // stride * stride) if blend else kept
    ramp = np.minimum(np.arange(1, kept + 1), np.arange(kept, 0, -1)) if blend else np.ones(kept)
    weight = (ramp[:, None] * ramp[None, :]).astype(np.float32)[..., None]
    lefts = range(0, width, step)
    sums = weights = None
    for top in range(0, height, step):
        for first in range(0, len(lefts), BATCH):
            block = lefts[first : first + BATCH]
            parts = [cut(image, top - before, left - before, side, side) for left in block]
            filled = np.stack(parts + parts[-1:] * (BATCH - len(parts)))  # one shape: one compilation
            values = np.asarray(predict(filled))
            shift = before - (side - values.shape[1]) // 2
            if sums is None:
                sums = np.zeros((kept, width + kept, values.shape[-1]), np.float32)
                weights = np.zeros((kept, width + kept, 1), np.float32)
            for left, value in zip(block, values):
                inner = value[shift : shift + kept, shift : shift + kept]
                sums[:, left : left + kept] += weight * inner
                weights[:, left : left + kept] += weight
        rows = min(step, height - top)
        yield top, sums[:rows, :width] / weights[:rows, :width]
        for buffer in (sums, weights):  # what is done makes room
            buffer[: kept - step] = buffer[step:]
            buffer[kept - step :] = 0

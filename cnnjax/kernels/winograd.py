"""Convolution by windows of three with fewer products: F(2, 3) along each axis, of Lavin and Gray (CVPR 2016, section 4).

Two outputs along an axis take six products directly and four by a tile of four inputs: in 2-D 16 in place of 36. What
remains to be summed over channels is one matrix product for each place in a tile. Sums are float32; the largest error
is one to two times that of a direct sum, and what is not finite reaches all outputs of its tile, which therefore all
depend on all its inputs: the field of view is measured on XLA's own operations.
Arrays are `[B, *spatial, C]` and `[*window, I, O]`; `geometry` is convolution.Geometry.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels.in_memory import in_memory
from cnnjax.kernels.window import Window, opposite, taps

# Of inputs d, a kernel g and outputs y along one axis: y = OUTPUT ((KERNEL g) * (INPUT d)); the paper's A^T, G, B^T.
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
WINDOW, TILE, STEP = 3, 4, 2
MOST_NUMBERS = 2**25  # in the transformed input or output of what is computed at once; as many again hold the products
LEAST_WORK = 2**29  # direct multiply-adds: of fewer, what it saves in 100 steps is less than it takes to compile
LEAST_TILES = 128  # computed at once: of fewer, the kernel's transform takes as long as it saves
LEAST_FILLED = 0.75  # of the outputs of all tiles


def serves(kind: str, geometry, least_channels: Sequence[float]) -> bool:
    """Is it faster than the direct sum, and in bounded memory?

    Args:
      geometry: of one group.
      least_channels: of input and output, from which on it is, for 1, 2 and 3 spatial axes.
    """
    window, axes = geometry.window, len(geometry.window.strides)
    out = (geometry.x if kind == "input_gradient" else geometry.y)[1:-1]
    return (
        set(geometry.w[:-2]) == {WINDOW}
        and set(window.strides) == set(window.dilation) == {1}
        and min(geometry.w[-2:]) >= least_channels[axes - 1]
        and prod(geometry.y) * prod(geometry.w[:-1]) >= LEAST_WORK
        and prod(out) >= LEAST_FILLED * prod(STEP * -(-n // STEP) for n in out)
        and _parts(kind, geometry) is not None
    )


def convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw); in one group."""
    pads, parts = geometry.window.padding, _parts(kind, geometry) or 1
    split = lambda array: array.reshape(parts, -1, *array.shape[1:])
    if kind == "weight_gradient":
        add = lambda dw, pair: (dw + _weight_gradient(*pair, pads), None)
        if parts == 1:
            return _weight_gradient(a, b, pads).astype(a.dtype)
        return lax.scan(add, jnp.zeros(geometry.w, jnp.float32), (split(a), split(b)))[0].astype(a.dtype)
    w = b.astype(jnp.float32)
    places = list(product(range(WINDOW), repeat=len(pads)))
    if kind == "input_gradient":  # a convolution too, by the kernel turned round
        w, places = in_memory(w.swapaxes(-1, -2)), places[::-1]
        pads = opposite(pads, (WINDOW,) * len(pads))
    kernels = lax.optimization_barrier(_transformed(KERNEL, [w[place] for place in places]))
    if parts == 1:
        return _forward(a, kernels, pads)
    out = lax.map(lambda part: _forward(part, kernels, pads), split(a))
    return out.reshape(-1, *out.shape[2:])


def _parts(kind: str, geometry) -> int | None:
    """In how many equal parts, one after another, a batch has to be computed; None if they would be too small."""
    batch = geometry.x[0]
    out = (geometry.x if kind == "input_gradient" else geometry.y)[1:-1]
    tiles = batch * prod(-(-n // STEP) for n in out)
    numbers = tiles * TILE ** len(out) * max(geometry.w[-2:])
    found = (n for n in range(1, batch + 1) if batch % n == 0 and numbers <= n * MOST_NUMBERS)
    return next((n for n in found if tiles >= n * LEAST_TILES), None)


def _forward(x: jax.Array, kernels: list[jax.Array], pads: Sequence[tuple[int, int]]) -> jax.Array:
    """`kernels` are transformed: for each place in a tile along all axes but the last `[TILE, I, O]`."""
    out = [n + low + high - WINDOW + 1 for n, (low, high) in zip(x.shape[1:-1], pads)]
    counts = [-(-n // STEP) for n in out]
    found = [_products(tile, kernel, (2, 1)) for tile, kernel in zip(_tiles(x, pads, out), kernels)]
    found = [one.reshape(x.shape[0], *counts, -1) for four in lax.optimization_barrier(found) for one in four]
    y = _interleaved(_transformed(OUTPUT, found, axis=len(out) + 1))
    return y[(slice(None), *map(slice, out))].astype(x.dtype)


def _weight_gradient(x: jax.Array, dy: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    out = dy.shape[1:-1]
    even = [-(-n // STEP) * STEP for n in out]
    dy = jnp.pad(dy, [(0, 0), *((0, m - n) for m, n in zip(even, out)), (0, 0)])
    dy_tiles = _transformed(_turned(OUTPUT), _places(dy, STEP, [m // STEP for m in even]))
    dy_tiles = lax.optimization_barrier([t.reshape(TILE, -1, dy.shape[-1]) for t in dy_tiles])
    found = [_products(tile, of_dy, (1, 1)) for tile, of_dy in zip(_tiles(x, pads, out), dy_tiles)]
    found = lax.optimization_barrier(found)
    dw = _transformed(_turned(KERNEL), [one for four in found for one in four])
    return jnp.concatenate(dw).reshape(*(WINDOW,) * len(out), x.shape[-1], dy.shape[-1])


def _products(a: jax.Array, b: jax.Array, summed: tuple[int, int]) -> jax.Array:
    """Of each of several matrices with another, over an axis of each."""
    over = ((summed[:1], summed[1:]), ((0,), (0,)))
    return lax.dot_general(a, b, over, precision=lax.Precision.HIGHEST)


def _tiles(x: jax.Array, pads: Sequence[tuple[int, int]], out: Sequence[int]) -> list[jax.Array]:
    """Of all tiles, transformed: for each place along all axes but the last `[TILE, B * tiles, C]`."""
    counts = [-(-n // STEP) for n in out]
    high = [STEP * n + TILE - STEP - size - low for n, size, (low, _) in zip(counts, x.shape[1:-1], pads)]
    gaps = [(0, 0, 0), *((low, h, 0) for (low, _), h in zip(pads, high)), (0, 0, 0)]
    x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), gaps))
    tiles = _transformed(INPUT, _places(x, TILE, counts))
    return lax.optimization_barrier([tile.reshape(TILE, -1, x.shape[-1]) for tile in tiles])


def _places(x: jax.Array, size: int, counts: Sequence[int]) -> list[jax.Array]:
    """What each place in a tile of a size lies on, row by row, in float32: `size**axes` of `[B, *counts, C]`."""
    axes = len(counts)
    window = Window(strides=(STEP,) * axes, padding=((0, 0),) * axes, dilation=(1,) * axes)
    found = taps(x, (size,) * axes, window, (x.shape[0], *counts, x.shape[-1]))
    return [tap.astype(jnp.float32) for tap in found]


def _transformed(matrix: Sequence[Sequence[float]], parts: list[jax.Array], axis: int = 0) -> list[jax.Array]:
    """The matrix along each axis of a tile, of which `parts` has what is at each place, row by row.

    The list that it gives has an array for each place along all axes but the last; the places along the last one are an axis
    of that array, `axis`: one loop to compile in place of several, at the price of products by zero.
    """
    size = len(matrix[0])
    sums = [_summed(matrix, parts[start::size]) for start in range(size)]
    shape = [len(matrix) if i == axis else 1 for i in range(parts[0].ndim + 1)]
    columns = [jnp.float32(column).reshape(shape) for column in _turned(matrix)]
    return [sum(w * jnp.expand_dims(part, axis) for w, part in zip(columns, along)) for along in zip(*sums)]


def _summed(matrix: Sequence[Sequence[float]], parts: list[jax.Array]) -> list[jax.Array]:
    """The matrix along each axis: its Kronecker power times the list of what is at each place."""
    if len(parts) == 1:
        return parts
    size = len(parts) // len(matrix[0])
    within = [_summed(matrix, parts[i : i + size]) for i in range(0, len(parts), size)]
    return [_weighted(row, across) for row in matrix for across in zip(*within)]


def _weighted(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    """The sum, without a product where the weight is 0 or 1."""
    terms = [part if weight == 1 else weight * part for weight, part in zip(weights, parts) if weight]
    return sum(terms[1:], terms[0])


def _turned(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix))


def _interleaved(corners: list[jax.Array]) -> jax.Array:
    """For each corner of a tile but along the last axis `[B, *counts, STEP, C]` -> `[B, *(STEP * counts), C]`."""
    merged = lambda y, axis: y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])
    corners = [merged(corner, corner.ndim - 3) for corner in corners]
    for axis in reversed(range(1, corners[0].ndim - 2)):
        pairs = [corners[i : i + STEP] for i in range(0, len(corners), STEP)]
        corners = [merged(jnp.stack(pair, axis + 1), axis) for pair in pairs]
    return corners[0]

"""What a convolution or pooling does along its spatial axes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Window(NamedTuple):
    """One value (of padding: a pair) an axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def dilated(sizes: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """The extent of `sizes` elements with gaps of `dilation` - 1 between them."""
    return tuple((size - 1) * d + 1 if size else 0 for size, d in zip(sizes, dilation))


def opposite(padding: Sequence[tuple[int, int]], extent: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding of the convolution that goes the other way, from outputs to inputs, by a window of this extent."""
    return tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(extent, padding))


def places(size: Sequence[int], dilation: Sequence[int] | None = None) -> Iterator[tuple[int, ...]]:
    """Where each element of a window stands in it, row by row."""
    return product(*(range(0, n * d, d) for n, d in zip(size, dilation or (1,) * len(size))))


def taps(x: jax.Array, size: Sequence[int], window: Window, out: Sequence[int], beyond: float = 0) -> list[jax.Array]:
    """For each place of a window, row by row, what of `[B, *spatial, C]` it lies on at all positions."""
    x = jnp.pad(x, [(0, 0), *window.padding, (0, 0)], constant_values=beyond) if any(map(any, window.padding)) else x
    found, steps = [], (1, *window.strides, 1)
    for place in places(size, window.dilation):
        limit = [p + (n - 1) * s + 1 for p, n, s in zip(place, out[1:-1], window.strides)]
        found.append(lax.slice(x, (0, *place, 0), (x.shape[0], *limit, x.shape[-1]), steps))
    return found


def per_place(w: jax.Array) -> jax.Array:
    """`[*window, I, O]` -> for each place in the window and each input `[1, ..., 1, O]`."""
    return w.reshape(-1, *(1,) * (w.ndim - 1), w.shape[-1])


def spread(parts: Iterable[jax.Array], shape: Sequence[int], size: Sequence[int], window: Window) -> jax.Array:
    """The transpose of `taps`: what comes from each place, added up where it was taken from, in an array of a shape."""
    padded = [n + sum(p) for n, p in zip(shape[1:-1], window.padding)]
    total = 0
    for part, start in zip(parts, places(size, window.dilation)):
        after = [n - s - (m - 1) * t - 1 for n, s, m, t in zip(padded, start, part.shape[1:-1], window.strides)]
        gaps = [(0, 0, 0), *((s, e, t - 1) for s, e, t in zip(start, after, window.strides)), (0, 0, 0)]
        total = total + lax.pad(part, jnp.zeros((), part.dtype), gaps)
    inner = [slice(low, low + n) for (low, _), n in zip(window.padding, shape[1:-1])]
    return total[(slice(None), *inner, slice(None))]


def cropped(x: jax.Array, pads, beyond: float = 0) -> tuple[jax.Array, tuple]:
    """x padded along the axes where that takes pixels away, which XLA can get wrong; the padding that is left."""
    if min(map(min, pads)) >= 0:
        return x, tuple(pads)
    here = [p if min(p) < 0 else (0, 0) for p in pads]
    x = lax.pad(x, jnp.asarray(beyond, x.dtype), [(0, 0, 0), *((*p, 0) for p in here), (0, 0, 0)])
    return x, tuple((0, 0) if min(p) < 0 else p for p in pads)

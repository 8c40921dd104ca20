"""Pooling, as Modules without parameters, so that a table of layers shows them."""

from collections.abc import Sequence
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels
from cnnjax.layers.window import Padding, check_fits, explicit_padding


class MaxPool(nn.Module):
    """The largest value of each window. `[B, *spatial, C]`; strides default to the window: no overlap."""

    window: Sequence[int]
    strides: Sequence[int] | None = None
    padding: Padding = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides = tuple(self.window), tuple(self.strides or self.window)
        pads = _padding(self, x, window, strides)
        if window == strides and not any(map(any, pads)):
            return _max_of_blocks(x, window)
        return kernels.max_pool(x, window, strides, pads)


def _padding(pool: nn.Module, x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]):
    """Pairs for each axis. Raises DoesNotFit where the window finds no position."""
    sizes = x.shape[1:-1]
    pads = explicit_padding(pool.padding, sizes, window, strides)
    check_fits(pool, sizes, window, pads)
    return pads


def _max_of_blocks(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Max pooling without overlap, the same values and gradient (all to the first maximum) as `lax.reduce_window`.

    The gradient of reduce_window is a scatter, which on a CPU takes 10 times as long as all of this.
    """
    dtype = x.dtype
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        x = x.astype(jnp.float32)  # a CPU computes narrow types operation by operation
    counts = [size // w for size, w in zip(x.shape[1:-1], window)]
    x = x[(slice(None), *(slice(n * w) for n, w in zip(counts, window)))]  # what fills no window is left out
    split = x.reshape(x.shape[0], *(part for pair in zip(counts, window) for part in pair), x.shape[-1])
    # [B, n1, w1, n2, w2, C] -> [B, n1, n2, w1, w2, C] -> [B, n1, n2, w1 * w2, C]
    dims = len(window)
    order = (0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    blocks = split.transpose(order).reshape(x.shape[0], *counts, prod(window), x.shape[-1])
    return _largest(blocks).astype(dtype)


@jax.custom_jvp
def _largest(blocks: jax.Array) -> jax.Array:
    """The largest of `[..., W, C]` along W, of equals the first; NaN is the largest of all."""
    return _first_largest(blocks)[0]


@_largest.defjvp
def _largest_jvp(primals, tangents):
    (blocks,), (tangent,) = primals, tangents
    first = _first_largest(jax.lax.stop_gradient(blocks))[1]  # XLA merges both calls
    places = jax.lax.broadcasted_iota(first.dtype, blocks.shape, blocks.ndim - 2)
    taken = jnp.where(places == jnp.expand_dims(first, -2), tangent, jnp.zeros((), tangent.dtype))
    return _largest(blocks), taken.sum(-2, dtype=tangent.dtype)


def _first_largest(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest along W and its place there, in one go: on a CPU a quarter of the time of `max` and `argmax`."""
    axis, dtype = blocks.ndim - 2, blocks.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        lowest = jnp.array(-jnp.inf, dtype)
    else:
        lowest = jnp.array(False if dtype == jnp.bool_ else jnp.iinfo(dtype).min, dtype)
    places = jax.lax.broadcasted_iota(jnp.int32, blocks.shape, axis)
    # What it begins with stands behind all: of equals the picture's own counts, with its sign of zero.
    return jax.lax.reduce((blocks, places), (lowest, jnp.int32(blocks.shape[axis])), _larger, (axis,))


def _larger(one, other):
    (a, i), (b, j) = one, other
    first = (a > b) | (a != a) | ((a == b) & (i < j))
    return jnp.where(first, a, b), jnp.where(first, i, j)


class AveragePool(nn.Module):
    """The mean of each window. `[B, *spatial, C]`; strides default to the window.

    Padding counts as zeros, unless `count_include_pad` is off: then the mean is over the pixels that are there.
    """

    window: Sequence[int]
    strides: Sequence[int] | None = None
    padding: Padding = "VALID"
    count_include_pad: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides = tuple(self.window), tuple(self.strides or self.window)
        pads = _padding(self, x, window, strides)
        y = nn.avg_pool(x, window, strides=strides, padding=pads, count_include_pad=self.count_include_pad)
        return y.astype(x.dtype)  # Flax counts what is there in float32


class GlobalAveragePool(nn.Module):
    """The mean over all positions, taken in float32: `[B, *spatial, C]` -> `[B, C]` (Lin, Chen & Yan 2013)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        exact = jnp.promote_types(x.dtype, jnp.float32)
        return x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=exact).astype(x.dtype)


class GlobalMaxPool(nn.Module):
    """The largest value over all positions: `[B, *spatial, C]` -> `[B, C]`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.max(axis=tuple(range(1, x.ndim - 1)))


POOLINGS = dict(max=MaxPool, average=AveragePool)


def pooling(name: str, /, window: Sequence[int], **kwargs) -> nn.Module:
    """Pooling of a name, 'max' or 'average'."""
    return POOLINGS[name](window=window, **kwargs)

"""Windows that neither overlap nor leave gaps: their convolution is one matrix product of pixels that lie in another order.

So are patches, halvings and, the other way round, the up-convolutions of U-Nets. `g` is a convolution.Geometry.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax


def is_side_by_side(g) -> bool:
    return g.w[:-2] == g.window.strides and set(g.window.dilation) == {1} and g.groups == 1


def laid(parts: jax.Array, g) -> jax.Array:
    """What each place of the windows gets, laid where it lies: `[B, *out, places * C]` -> `[B, *spatial, C]`."""
    strides, axes = g.window.strides, len(g.window.strides)
    z = parts.reshape(*parts.shape[:-1], *strides, -1)
    z = z.transpose(0, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i)), 2 * axes + 1)
    z = z.reshape(z.shape[0], *_covered(g), -1)
    crop = [(-low, n + low - m, 0) for (low, _), n, m in zip(g.window.padding, g.x[1:-1], _covered(g))]
    return lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), *crop, (0, 0, 0)])


def taken(x: jax.Array, g) -> jax.Array:
    """The transpose of `laid`, of all positions: `[B, *spatial, C]` -> `[B * out, places * C]`, in memory."""
    strides, axes = g.window.strides, len(g.window.strides)
    pads = [(low, m - n - low, 0) for (low, _), n, m in zip(g.window.padding, g.x[1:-1], _covered(g))]
    z = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    z = z.reshape(z.shape[0], *(size for pair in zip(g.y[1:-1], strides) for size in pair), -1)
    z = z.transpose(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return lax.optimization_barrier(z.reshape(prod(g.y[:-1]), -1))


def _covered(g) -> list[int]:
    """Pixels beneath the windows, along each axis."""
    return [n * s for n, s in zip(g.y[1:-1], g.window.strides)]

"""Depthwise convolution, one kernel a channel, in JAX operations: sums of products, place by place of the window, in float32.

What XLA makes of such a sum is as fast as memory up to some thirty terms; of more, and to add up arrays that were padded
apart, it is many times slower. `geometry` is convolution.Geometry.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels.column_sum import column_sum
from cnnjax.kernels.in_memory import in_memory
from cnnjax.kernels.side_by_side import laid
from cnnjax.kernels.window import Window, dilated, opposite, per_place, spread, taps

MOST_TERMS = 32  # of one sum
MOST_PADDED = 9  # arrays that are padded apart, and added
BEFORE = 8  # products that are added before anything is stored


def convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw); w `[*window, 1, C]`."""
    form = dict(forward=_forward, input_gradient=_input_gradient, weight_gradient=_weight_gradient)[kind]
    a_stored = in_memory(a, b if kind == "forward" else None)
    b_stored = in_memory(b) if kind == "weight_gradient" else b
    return form(a_stored.astype(jnp.float32), b_stored.astype(jnp.float32), geometry).astype(a.dtype)


def _forward(x: jax.Array, w: jax.Array, g) -> jax.Array:
    x, g = _padded(x, g)
    axis, at_once = _split(g)
    summed = lambda x, w: sum(tap * kernel for tap, kernel in zip(taps(x, w.shape[:-2], g.window, g.y), per_place(w)))
    if at_once >= g.w[axis]:
        return summed(x, w)
    # A loop over some of the window's rows at a time, whose body alone is compiled.
    beneath = lambda start, n: in_memory(_beneath(x, g, axis, start, n), w)
    part = lambda start, n: summed(beneath(start, n), lax.dynamic_slice_in_dim(w, start, n, axis))
    whole, rest = divmod(g.w[axis], at_once)
    y = lax.fori_loop(0, whole, lambda i, y: y + part(i * at_once, at_once), jnp.zeros(g.y, x.dtype))
    return y + part(whole * at_once, rest) if rest else y


def _input_gradient(dy: jax.Array, w: jax.Array, g) -> jax.Array:
    """Laid side by side, of few places spread one by one, else the convolution that goes the other way."""
    size, window, axes = g.w[:-2], g.window, range(w.ndim - 2)
    if set(window.dilation) == {1} and (size == window.strides or prod(g.y[1:-1]) == 1):
        parts = dy[..., None, :] * w.reshape(*(1,) * len(size), 1, -1, w.shape[-1])
        return laid(parts.reshape(*dy.shape[:-1], -1), g._replace(window=window._replace(strides=size)))
    if prod(size) <= MOST_PADDED:
        return spread((dy * kernel for kernel in per_place(w)), g.x, size, window)
    extent = dilated(size, window.dilation)
    gaps = [
        (low, n + m - 1 - low - (positions - 1) * s - 1, s - 1)
        for (low, _), n, m, positions, s in zip(
            opposite(window.padding, extent), g.x[1:-1], extent, g.y[1:-1], window.strides
        )
    ]
    spaced = in_memory(lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *gaps, (0, 0, 0)]))
    other = Window((1,) * len(gaps), ((0, 0),) * len(gaps), window.dilation)
    return _forward(spaced, jnp.flip(w, axes), g._replace(x=spaced.shape, y=g.x, window=other))


def _weight_gradient(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    x, g = _padded(x, g)
    size = g.w[:-2]
    if prod(size) <= MOST_TERMS:
        return jnp.stack([_sum_of_products(tap, dy) for tap in taps(x, size, g.window, g.y)]).reshape(g.w)
    axis, _ = _split(g)
    stride = g.window.strides[axis]
    row = g._replace(w=_with(g.w, axis, 1), window=g.window._replace(strides=_with(g.window.strides, axis, 1)))

    def of_row(start):
        below = lax.slice_in_dim(_beneath(x, g, axis, start, 1), 0, None, stride, axis + 1)
        return _weight_gradient(in_memory(below), dy, row)

    return jnp.moveaxis(lax.map(of_row, jnp.arange(g.w[axis])).squeeze(axis + 1), 0, axis)


def _with(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])


def _padded(x: jax.Array, g):
    """x with its padding, and the geometry without."""
    pads, none = g.window.padding, ((0, 0),) * len(g.window.padding)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)]) if pads != none else x
    return x, g._replace(window=g.window._replace(padding=none))


def _split(g) -> tuple[int, int]:
    """Along which axis a large window is taken apart, and of how many of its rows the places make one sum."""
    axis = max(range(len(g.w) - 2), key=lambda i: g.w[i])
    return axis, max(1, MOST_TERMS * g.w[axis] // prod(g.w[:-2]))


def _beneath(x: jax.Array, g, axis: int, start, rows: int) -> jax.Array:
    """What of the padded x lies beneath so many rows of the window, from `start` on, at all positions."""
    stride, dilation = g.window.strides[axis], g.window.dilation[axis]
    extent = (g.y[axis + 1] - 1) * stride + (rows - 1) * dilation + 1
    return lax.dynamic_slice_in_dim(x, start * dilation, extent, axis + 1)


def _sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` twice -> `[C]`, the sum of x * y, of which several are added before a sum of columns is taken."""
    examples = next(n for n in range(min(BEFORE, y.shape[0]), 0, -1) if y.shape[0] % n == 0)
    rows = next(n for n in range(BEFORE // examples, 0, -1) if y.shape[1] % n == 0)
    divided = lambda t: [part for some in jnp.split(t, examples) for part in jnp.split(some, rows, 1)]
    return column_sum(sum(a * b for a, b in zip(divided(x), divided(y))))

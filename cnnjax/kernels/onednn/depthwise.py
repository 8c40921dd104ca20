"""Depthwise convolution by the forms for which oneDNN 3.2 has fast code. `g` is a convolution.Geometry.

Those are two spatial axes; of the gradients, without dilation; of the weights' gradient, windows of at most three columns and
little padding. All else it computes about ten times more slowly. So sequences are pictures of one column here, the weights'
gradient takes the window's columns by threes, from zeros that lie in memory, and the rest is left to the portable path.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels.onednn import calls
from cnnjax.kernels.onednn.library import Unsupported
from cnnjax.kernels.window import Window

MOST_COLUMNS = 3
SMALL = 32  # pixels, of a row
MOST_PLACES = 125  # of a window in 3-D, up to which the portable path is faster


def convolution(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    """`calls.convolution` of one kernel a channel. Raises Unsupported where that does, or the portable path is faster."""
    axes, dense = len(g.x) - 2, set(g.window.dilation) == {1}
    if (axes == 3 and prod(g.w[:-2]) <= MOST_PLACES) or not (dense or kind == "forward"):
        raise Unsupported("Depthwise convolutions in 3-D, and gradients of dilated ones.")
    if kind == "weight_gradient" and axes == 2 and g.window.strides[1] > MOST_COLUMNS:
        raise Unsupported("Weights' gradients of windows that lie far apart.")
    if axes == 1:
        of_kernel = (False, kind != "weight_gradient")
        column = [t[:, None] if kernel else t[:, :, None] for t, kernel in zip((a, b), of_kernel)]
        return convolution(*column, kind, _of_one_column(g)).squeeze(1 if kind == "weight_gradient" else 2)
    if kind == "weight_gradient" and axes == 2 and not _is_fast(g):
        return _weight_gradient_by_columns(a, b, g)
    return calls.convolution(a, b, kind, *g)


def _of_one_column(g):
    window = Window((*g.window.strides, 1), (*g.window.padding, (0, 0)), (*g.window.dilation, 1))
    return g._replace(x=_with_axis(g.x, 2), w=_with_axis(g.w, 1), y=_with_axis(g.y, 2), window=window)


def _with_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis:])


def _is_fast(g) -> bool:
    """Has oneDNN fast code for the weights' gradient? Of large arrays that are strided, copies would take as long."""
    large = g.window.strides[1] > 1 and g.x[2] > SMALL
    return large or (g.w[1] <= MOST_COLUMNS and _fits(g, 0) and _fits(g, 1))


def _fits(g, axis: int) -> bool:
    """Can the padding along an axis be left to the fast code?"""
    (low, high), size = g.window.padding[axis], g.w[axis]
    return max(low, high) <= size // 2 and g.x[axis + 1] >= size + low


def _weight_gradient_by_columns(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    rows, columns = g.window.padding
    of_onednn, in_memory = (rows, (0, 0)) if _fits(g, 0) else ((0, 0), rows)
    x = jnp.pad(x, [(0, 0), in_memory, columns, (0, 0)])
    window = g.window._replace(padding=(of_onednn, (0, 0)))
    found = []
    for first in range(0, g.w[1], MOST_COLUMNS):
        size = (g.w[0], min(MOST_COLUMNS, g.w[1] - first), *g.w[2:])
        end = first + (g.y[2] - 1) * g.window.strides[1] + size[1]
        part = lax.slice_in_dim(x, first, end, axis=2)
        found.append(calls.convolution(part, dy, "weight_gradient", part.shape, size, g.y, window, g.groups))
    return jnp.concatenate(found, 1)

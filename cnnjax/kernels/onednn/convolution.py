"""Convolution by oneDNN 3.2: by its primitive, or in the form that is faster than that. `g` is a kernels.convolution.Geometry."""

from math import inf, prod

import jax
import jax.numpy as jnp

from cnnjax.kernels import winograd
from cnnjax.kernels.groups import MOST_GROUPS, by_group, of_one
from cnnjax.kernels.onednn import calls, depthwise
from cnnjax.kernels.side_by_side import is_side_by_side, taken
from cnnjax.kernels.window import spread

# From which on fewer products by transforms are faster than oneDNN's direct sum, for 1, 2 and 3 spatial axes.
LEAST_CHANNELS = (512, 192, inf)
FEW_POSITIONS = (
    256  # in a batch, up to which a convolution by windows of one pixel takes up to six times as long as a product
)
# In a picture, and inputs, from which on the weights' gradient of windows side by side takes up to four times as long.
MANY_POSITIONS, MANY_INPUTS = 4096, 64


def convolution(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw).

    Raises Unsupported where oneDNN has no primitive for the shapes, or none that is fast.
    """
    float32 = calls.computes_in(a.dtype) == jnp.float32
    if float32 and g.groups <= MOST_GROUPS and winograd.serves(kind, of_one(g), LEAST_CHANNELS):
        return by_group(winograd.convolution, a, b, kind, g)
    if g.groups == g.x[-1] == g.w[-1] > 1:
        return depthwise.convolution(a, b, kind, g)
    pointwise = set(g.w[:-2]) == {1} and not any(map(any, g.window.padding)) and g.groups == 1
    if pointwise and prod(g.y[:-1]) <= FEW_POSITIONS:
        return _by_product(a, b, kind, g)
    large = prod(g.y[1:-1]) >= MANY_POSITIONS and g.x[-1] >= MANY_INPUTS
    if kind == "weight_gradient" and large and is_side_by_side(g):
        return calls.product(taken(a, g), _rows(b), (True, False)).reshape(g.w)
    return calls.convolution(a, b, kind, *g)


def _by_product(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    strided = (slice(None), *(slice(None, None, stride) for stride in g.window.strides))
    if kind == "forward":
        return calls.product(_rows(a[strided]), b.reshape(g.w[-2:]), (False, False)).reshape(g.y)
    if kind == "weight_gradient":
        return calls.product(_rows(a[strided]), _rows(b), (True, False)).reshape(g.w)
    dx = calls.product(_rows(a), b.reshape(g.w[-2:]), (False, True)).reshape(*g.y[:-1], -1)
    return spread([dx], g.x, g.w[:-2], g.window) if set(g.window.strides) != {1} else dx


def _rows(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` -> `[B * spatial, C]`."""
    return x.reshape(-1, x.shape[-1])

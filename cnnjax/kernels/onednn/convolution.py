"""Convolution by oneDNN 3.2: by its primitive, or in the form that is faster than that. `g` is a kernels.convolution.Geometry."""

from math import inf, prod

import jax
import jax.numpy as jnp

from cnnjax.kernels import pointwise, winograd
from cnnjax.kernels.groups import MOST_GROUPS, by_group, of_one
from cnnjax.kernels.onednn import calls, depthwise
from cnnjax.kernels.side_by_side import is_side_by_side, taken

# From which on fewer products by transforms are faster than oneDNN's direct sum, for 1, 2 and 3 spatial axes.
LEAST_CHANNELS = (512, 192, inf)
# Up to so many pixels in a batch a convolution by windows of one pixel takes up to six times as long as the product that it is.
FEW_PIXELS = 256
# From so many pixels in each output, and inputs, on the weights' gradient of windows side by side takes up to four times as long.
MANY_PIXELS, MANY_INPUTS = 4096, 64


def convolution(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw).

    Raises Unsupported where oneDNN has no primitive for the shapes, or none that is fast.
    """
    float32 = calls.computes_in(a.dtype) == jnp.float32
    if float32 and g.groups <= MOST_GROUPS and winograd.serves(kind, of_one(g), LEAST_CHANNELS):
        return by_group(winograd.convolution, a, b, kind, g)
    if g.groups == g.x[-1] == g.w[-1] > 1:
        return depthwise.convolution(a, b, kind, g)
    if pointwise.is_pointwise(g) and prod(g.y[:-1]) <= FEW_PIXELS:
        return pointwise.convolution(a, b, kind, g, calls.product)
    large = prod(g.y[1:-1]) >= MANY_PIXELS and g.x[-1] >= MANY_INPUTS
    if kind == "weight_gradient" and large and is_side_by_side(g):
        return calls.product(taken(a, g), pointwise.rows(b), (True, False)).reshape(g.w)
    return calls.convolution(a, b, kind, *g)

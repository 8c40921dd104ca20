"""Convolution in JAX operations that XLA compiles well, where its own are slow: on a CPU; of transposed ones, on a GPU.

XLA's convolution on a CPU runs near the machine's ceiling for plain forward convolutions of many channels. It is slow
for groups (here: one by one; of one channel, depthwise), for few inputs (sums), for windows of one pixel or side by side
(products), for the gradient of a strided convolution (one product a place of the window), for pictures smaller than their
windows (zeros come before), and for weight gradients (the array is turned by itself, not while it is computed). Windows of
three with many channels take fewer products than it does, by transforms (winograd).
Arrays are `[B, *spatial, C]` and `[*window, I, O]`; `geometry` is convolution.Geometry.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels import depthwise, pointwise, winograd
from cnnjax.kernels.groups import by_group
from cnnjax.kernels.in_memory import in_memory
from cnnjax.kernels.product import product
from cnnjax.kernels.side_by_side import is_side_by_side, laid, taken
from cnnjax.kernels.window import cropped, dilated, opposite, per_place, spread, taps

FEW_CHANNELS = 8  # so few inputs that XLA's convolution wastes most of a vector
# From which on fewer products by transforms (winograd) are faster, for 1, 2 and 3 spatial axes.
LEAST_CHANNELS = dict(forward=(256, 64, 16), input_gradient=(256, 64, 16), weight_gradient=(256, 96, 16))
MOST_TERMS = 32  # of one fused sum: places in a window, times the inputs where these are summed too
MOST_PRODUCTS = 2048  # of such a sum for each position, from which on XLA's convolution is as fast
# The weights' gradient is faster with both exchanged for so many outputs at most, of so many times as many inputs.
NARROW = ((16, 2), (64, 3))


def xla_convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """XLA's own; the gradients are those that JAX derives."""
    x, w = (jax.ShapeDtypeStruct(shape, a.dtype) for shape in (geometry.x, geometry.w))
    if kind == "forward":
        return _forward(a, b, geometry)
    if kind == "input_gradient":
        return jax.linear_transpose(lambda x: _forward(x, b, geometry), x)(a)[0]
    return jax.linear_transpose(lambda w: _forward(a, w, geometry), w)(b)[0]


def on_gpu(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """XLA's, each gradient as one that cuDNN has; but of windows side by side the input's is one product, laid out."""
    if kind == "input_gradient" and is_side_by_side(geometry):
        return _input_gradient_by_places(a, b.swapaxes(-1, -2), geometry)
    return xla_convolution(a, b, kind, geometry)


def convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw)."""
    groups, channels = geometry.groups, geometry.x[-1]
    if groups > 1:
        if groups < channels:
            return by_group(convolution, a, b, kind, geometry)
        several = geometry.w[-1] > channels  # kernels a channel
        return (xla_convolution if several else depthwise.convolution)(a, b, kind, geometry)
    if winograd.serves(kind, geometry, LEAST_CHANNELS[kind]):
        return winograd.convolution(a, b, kind, geometry)
    if pointwise.is_pointwise(geometry):
        return pointwise.convolution(a, b, kind, geometry, product)
    few = prod(geometry.w[:-1]) <= MOST_TERMS and prod(geometry.w) <= MOST_PRODUCTS
    form = dict(
        forward=_forward_of_few if few else _direct, input_gradient=_input_gradient, weight_gradient=_weight_gradient
    )[kind]
    return form(a, b, geometry)


def _forward(x: jax.Array, w: jax.Array, g) -> jax.Array:
    axes = x.ndim - 2
    last = (0, axes + 1, *range(1, axes + 1))
    return lax.conv_general_dilated(
        x,
        w,
        g.window.strides,
        g.window.padding,
        rhs_dilation=g.window.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(last, (axes + 1, axes, *range(axes)), last),
        feature_group_count=g.groups,
    )


def _direct(x: jax.Array, w: jax.Array, g) -> jax.Array:
    """XLA's, which computes pictures smaller than their windows in a plain loop, some thirty times slower: padded before."""
    pads, extent = g.window.padding, dilated(w.shape[:-2], g.window.dilation)
    if any(n < size for n, size in zip(x.shape[1:-1], extent)):
        gaps = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
        x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), gaps))
        g = g._replace(window=g.window._replace(padding=((0, 0),) * len(pads)))
    return _forward(x, w, g)


def _forward_of_few(x: jax.Array, w: jax.Array, g) -> jax.Array:
    """Few inputs: a sum over them and the places of the window."""
    exact = [tap.astype(jnp.float32) for tap in taps(x, g.w[:-2], g.window, g.y)]
    terms = (tap[..., i : i + 1] for tap in exact for i in range(g.w[-2]))
    y = sum(term * kernel for term, kernel in zip(terms, per_place(w.astype(jnp.float32))))
    return in_memory(y.astype(x.dtype), w)


def _input_gradient(dy: jax.Array, w: jax.Array, g) -> jax.Array:
    axes, window = dy.ndim - 2, g.window
    kernel, strides = g.w[:-2], window.strides
    turned = w.swapaxes(-1, -2)
    if set(strides) != {1} or (g.w[-2] <= FEW_CHANNELS and prod(kernel) <= MOST_TERMS):
        return _input_gradient_by_places(dy, turned, g)
    dy, pads = cropped(dy, opposite(window.padding, dilated(kernel, window.dilation)))
    # The barrier keeps XLA from folding the turn into a convolution that it then cannot hand to its fast path.
    turned = lax.optimization_barrier(jnp.flip(turned, range(axes)))
    return _direct(
        dy, turned, g._replace(x=g.y, w=turned.shape, y=g.x, window=window._replace(strides=(1,) * axes, padding=pads))
    )


def _input_gradient_by_places(dy: jax.Array, turned: jax.Array, g) -> jax.Array:
    """One product with the kernels of all places, whose parts are added where they were taken from."""
    outputs, inputs = turned.shape[-2:]
    wide = turned.reshape(-1, outputs, inputs).swapaxes(0, 1).reshape(outputs, -1)
    parts = lax.dot(dy.reshape(-1, outputs), wide, preferred_element_type=jnp.float32)
    parts = lax.optimization_barrier(parts).reshape(*dy.shape[:-1], -1)
    if is_side_by_side(g):
        return laid(parts, g).astype(dy.dtype)
    pieces = (parts[..., n : n + inputs] for n in range(0, parts.shape[-1], inputs))
    return spread(pieces, g.x, g.w[:-2], g.window).astype(dy.dtype)


def _weight_gradient(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """A convolution in which channels and examples have changed places.

    Turning what is in memory is fast; a loop that turns and computes at once is ten times slower.
    """
    axes, window = x.ndim - 2, g.window
    if is_side_by_side(g):
        return product(taken(x, g), pointwise.rows(dy), (True, False)).reshape(g.w)
    narrow = any(g.w[-1] <= most and g.w[-2] >= times * g.w[-1] for most, times in NARROW)
    if narrow and set(window.strides) == {1}:
        return _weight_gradient_exchanged(x, dy, g)
    x = lax.optimization_barrier(in_memory(x).transpose(axes + 1, *range(1, axes + 1), 0))
    dy = lax.optimization_barrier(in_memory(dy).transpose(*range(1, axes + 1), 0, axes + 1))
    pads = tuple(
        (low, (n - 1) * s + (k - 1) * d + 1 - size - low)
        for n, s, d, k, size, (low, _) in zip(
            g.y[1:-1], window.strides, window.dilation, g.w[:-2], g.x[1:-1], window.padding
        )
    )
    x, pads = cropped(x, pads)
    other = window._replace(strides=window.dilation, padding=pads, dilation=window.strides)
    return _direct(x, dy, g._replace(window=other, groups=1)).transpose(*range(1, axes + 1), 0, axes + 1)


def _weight_gradient_exchanged(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """Of strides 1, as seen from `x`: the windows are taken of `dy`, which is narrower, and what comes out is turned.

    What x[q] meets is dy[p], q = p + k * dilation - low; with k counted from the other end, q and p change places.
    """
    kernel, window = g.w[:-2], g.window
    pads = opposite(window.padding, dilated(kernel, window.dilation))
    other = g._replace(x=g.y, w=(*kernel, g.w[-1], g.w[-2]), y=g.x, window=window._replace(padding=pads))
    return jnp.flip(_weight_gradient(dy, x, other), range(len(kernel))).swapaxes(-1, -2)

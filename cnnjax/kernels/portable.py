"""Convolution in JAX operations that XLA compiles well for a CPU, where its own convolution is slow.

XLA's convolution on a CPU runs near the machine's ceiling for plain forward convolutions of many channels. It is slow
for groups (here: split), for 1x1 kernels (a product), for the gradient of a strided convolution (phases), and for weight
gradients (a product over all positions, in the form that suits the shape). Arrays are `[B, *spatial, C]` and
`[*window, I, O]`; `geometry` is convolution.Geometry.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels.window import places, reach

FEW_CHANNELS = 4  # so few inputs that a column of patches is not much larger than the picture


def xla_convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """XLA's own; the gradients are those that JAX derives."""
    x, w = (jax.ShapeDtypeStruct(shape, a.dtype) for shape in (geometry.x, geometry.w))
    if kind == "forward":
        return _forward(a, b, geometry)
    if kind == "input_gradient":
        return jax.linear_transpose(lambda x: _forward(x, b, geometry), x)(a)[0]
    return jax.linear_transpose(lambda w: _forward(a, w, geometry), w)(b)[0]


def convolution(a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw)."""
    groups, channels = geometry.groups, geometry.x[-1]
    if groups > 1:
        return _depthwise(a, b, kind, geometry) if groups == channels else _split(a, b, kind, geometry)
    pointwise = set(geometry.w[:-2]) == {1} and not any(map(any, geometry.window.padding))
    form = dict(
        forward=_forward_by_product if pointwise else _forward,
        input_gradient=_input_gradient_by_product if pointwise else _input_gradient,
        weight_gradient=_weight_gradient,
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


def _split(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    """Each group by itself."""
    divided = lambda shape: (*shape[:-1], shape[-1] // g.groups)
    each = g._replace(x=divided(g.x), w=divided(g.w), y=divided(g.y), groups=1)
    parts = zip(*(jnp.split(array, g.groups, -1) for array in (a, b)))
    return jnp.concatenate([convolution(*part, kind, each) for part in parts], -1)


def _taps(x: jax.Array, g) -> list[jax.Array]:
    """For each place in the window (row-major), what it lies on at all positions: `[B, *out, C]`."""
    x = jnp.pad(x, [(0, 0), *g.window.padding, (0, 0)]) if any(map(any, g.window.padding)) else x
    return [lax.slice(x, *reach(x.shape, start, g.y, g.window.strides)) for start in _starts(g)]


def _starts(g):
    return places(g.w[:-2], g.window.dilation)


def _spread(parts, g, dtype) -> jax.Array:
    """The transpose of `_taps`: `[B, *out, C]` of each place, added up where it was taken from."""
    padded = [n + sum(p) for n, p in zip(g.x[1:-1], g.window.padding)]
    total = 0
    for part, start in zip(parts, _starts(g)):
        after = [n - s - (m - 1) * t - 1 for n, s, m, t in zip(padded, start, g.y[1:-1], g.window.strides)]
        config = [(0, 0, 0), *((s, e, t - 1) for s, e, t in zip(start, after, g.window.strides)), (0, 0, 0)]
        total = total + lax.pad(part, jnp.zeros((), dtype), config)
    inner = [slice(p[0], p[0] + n) for p, n in zip(g.window.padding, g.x[1:-1])]
    return total[(slice(None), *inner, slice(None))]


def _depthwise(a: jax.Array, b: jax.Array, kind: str, g) -> jax.Array:
    """One kernel (or several) a channel: sums of products, place by place."""
    channels, outputs = g.x[-1], g.w[-1]
    many = outputs // channels
    if many > 1:
        return xla_convolution(a, b, kind, g)
    if kind == "forward":
        return sum(tap * kernel for tap, kernel in zip(_taps(a, g), _per_place(b)))
    if kind == "input_gradient":
        return _spread((a * kernel for kernel in _per_place(b)), g, a.dtype)
    dims = tuple(range(a.ndim - 1))
    exact = partial(jnp.sum, axis=dims, dtype=jnp.float32)
    return jnp.stack([exact(tap * b) for tap in _taps(a, g)]).reshape(g.w).astype(a.dtype)


def _per_place(w: jax.Array) -> jax.Array:
    """`[*window, 1, C]` -> for each place in the window `[1, ..., 1, C]`."""
    return w.reshape(-1, *(1,) * (w.ndim - 1), w.shape[-1])


def _forward_by_product(x: jax.Array, w: jax.Array, g) -> jax.Array:
    x = x[(slice(None), *(slice(None, None, s) for s in g.window.strides))]
    return (x.reshape(-1, x.shape[-1]) @ w.reshape(g.w[-2:])).reshape(g.y)


def _input_gradient_by_product(dy: jax.Array, w: jax.Array, g) -> jax.Array:
    dx = (dy.reshape(-1, dy.shape[-1]) @ w.reshape(g.w[-2:]).T).reshape(*dy.shape[:-1], -1)
    return _spread([dx], g, dx.dtype) if set(g.window.strides) != {1} else dx


def _input_gradient(dy: jax.Array, w: jax.Array, g) -> jax.Array:
    axes, window = dy.ndim - 2, g.window
    if set(window.dilation) != {1}:
        return xla_convolution(dy, w, "input_gradient", g)
    kernel, strides = g.w[:-2], window.strides
    turned = w.swapaxes(-1, -2)
    if set(strides) == {1}:
        # The barrier keeps XLA from folding the turn into a convolution that it then cannot hand to its fast path.
        pads = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel, window.padding))
        if min(map(min, pads)) < 0:
            return xla_convolution(dy, w, "input_gradient", g)
        turned = lax.optimization_barrier(jnp.flip(turned, range(axes)))
        return _forward(dy, turned, g._replace(x=g.y, w=turned.shape, y=g.x, window=window._replace(padding=pads)))
    return _input_gradient_by_phases(dy, turned, g)


def _input_gradient_by_phases(dy: jax.Array, turned: jax.Array, g) -> jax.Array:
    """Strides s: the s^n phases of the input's positions are the channels of one convolution without strides."""
    axes, strides, kernel = dy.ndim - 2, g.window.strides, g.w[:-2]
    outputs, inputs = g.w[-1], g.w[-2]
    reach = [-(-k // s) for k, s in zip(kernel, strides)]
    wide = jnp.pad(turned, [*((0, q * s - k) for q, s, k in zip(reach, strides, kernel)), (0, 0), (0, 0)])
    wide = wide.reshape(*(n for pair in zip(reach, strides) for n in pair), outputs, inputs)
    # [q1, s1, q2, s2, O, I] -> [q1, q2, O, s1, s2, I]
    order = (*range(0, 2 * axes, 2), 2 * axes, *range(1, 2 * axes, 2), 2 * axes + 1)
    wide = wide.transpose(order).reshape(*reach, outputs, prod(strides) * inputs)
    wide = lax.optimization_barrier(jnp.flip(wide, range(axes)))
    counts = [-(-(n + sum(p)) // s) for n, p, s in zip(g.x[1:-1], g.window.padding, strides)]
    pads = tuple((q - 1, m - n) for q, m, n in zip(reach, counts, g.y[1:-1]))
    one = g.window._replace(strides=(1,) * axes, padding=pads)
    z = _forward(dy, wide, g._replace(window=one))
    # [B, m1, m2, s1, s2, I] -> [B, m1, s1, m2, s2, I]
    z = z.reshape(z.shape[0], *counts, *strides, inputs)
    order = (0, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i)), 2 * axes + 1)
    z = z.transpose(order).reshape(z.shape[0], *(m * s for m, s in zip(counts, strides)), inputs)
    inner = [slice(p[0], p[0] + n) for p, n in zip(g.window.padding, g.x[1:-1])]
    return z[(slice(None), *inner, slice(None))]


def _weight_gradient(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """A product over all positions, in the form that suits the shape."""
    kernel, inputs, pixels = g.w[:-2], g.w[-2], g.x[1]
    strided = set(g.window.strides) != {1}
    if prod(kernel) == 1 or max(kernel) >= 11 or (inputs <= FEW_CHANNELS and prod(kernel) * inputs > 16):
        return _weight_gradient_of_patches(x, dy, g)
    if strided or (48 <= inputs <= 128 and pixels > 16) or (inputs <= 64 and pixels <= 14):
        return _weight_gradient_by_places(x, dy, g)
    if set(g.window.dilation) == {1} and inputs == 1:
        return _weight_gradient_by_channels(x, dy, g)
    return xla_convolution(x, dy, "weight_gradient", g)


def _over_positions(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[..., M]` and `[..., N]` -> `[M, N]`, summed over everything before."""
    first = (((0,), (0,)), ((), ()))
    return lax.dot_general(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), first)


def _weight_gradient_of_patches(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """One product with the column of all patches."""
    patches = lax.optimization_barrier(jnp.concatenate(_taps(x, g), -1))
    return _over_positions(patches, dy).reshape(g.w)


def _weight_gradient_by_places(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """One product for each place in the window."""
    return jnp.stack([_over_positions(tap, dy) for tap in _taps(x, g)]).reshape(g.w)


def _weight_gradient_by_channels(x: jax.Array, dy: jax.Array, g) -> jax.Array:
    """A convolution in which channels and examples have changed places."""
    axes, window = x.ndim - 2, g.window
    x_turned = lax.optimization_barrier(x.transpose(axes + 1, *range(1, axes + 1), 0))
    dy_turned = lax.optimization_barrier(dy.transpose(*range(1, axes + 1), 0, axes + 1))
    after = [
        (n - 1) * s + k - size - low
        for n, s, k, size, (low, _) in zip(g.y[1:-1], window.strides, g.w[:-2], g.x[1:-1], window.padding)
    ]
    pads = tuple((low, high) for (low, _), high in zip(window.padding, after))
    other = window._replace(strides=(1,) * axes, padding=pads, dilation=window.strides)
    return _forward(x_turned, dy_turned, g._replace(window=other)).transpose(*range(1, axes + 1), 0, axes + 1)

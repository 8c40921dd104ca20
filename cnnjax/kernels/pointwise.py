"""Convolution by windows of one pixel, which is a matrix product. `g` is a convolution.Geometry."""

from collections.abc import Callable

import jax

from cnnjax.kernels.window import spread


def is_pointwise(g) -> bool:
    return set(g.w[:-2]) == {1} and not any(map(any, g.window.padding)) and g.groups == 1


def convolution(a: jax.Array, b: jax.Array, kind: str, g, product: Callable) -> jax.Array:
    """`kind` as ever, by a `product(a, b, turned)` of two matrices, each stored the other way round where it is turned."""
    strided = (slice(None), *(slice(None, None, stride) for stride in g.window.strides))
    if kind == "forward":
        return product(rows(a[strided]), b.reshape(g.w[-2:]), (False, False)).reshape(g.y)
    if kind == "weight_gradient":
        return product(rows(a[strided]), rows(b), (True, False)).reshape(g.w)
    dx = product(rows(a), b.reshape(g.w[-2:]), (False, True)).reshape(*g.y[:-1], -1)
    return spread([dx], g.x, g.w[:-2], g.window) if set(g.window.strides) != {1} else dx


def rows(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` -> `[B * spatial, C]`."""
    return x.reshape(-1, x.shape[-1])

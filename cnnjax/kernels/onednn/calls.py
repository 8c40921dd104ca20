"""oneDNN's kernels as functions of JAX arrays. Shapes are `[B, *spatial, C]`; kernels `[*spatial, I / groups, O]`.

float32 is computed as it is, and bfloat16 on CPUs that multiply it faster (`library.bfloat16_pays`), but for depthwise
convolutions. Elsewhere bfloat16 is computed in float32 and rounded at the end, which is more exact and, but for the
conversion, as fast. Sums are float32 always.

All raise Unsupported while they are traced, where oneDNN has no primitive for the shapes.
"""

import functools
from collections.abc import Callable, Sequence
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.kernels.onednn import primitives
from cnnjax.kernels.onednn.handler import TARGET, bridge
from cnnjax.kernels.onednn.library import Unsupported, alone_up_to, bfloat16_pays
from cnnjax.kernels.onednn.primitives import TYPES, Builder
from cnnjax.kernels.window import Window


def computes_in(dtype) -> np.dtype:
    """The type in which oneDNN computes on arrays of a type. Raises Unsupported for other than float32 and bfloat16."""
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise Unsupported(f"Arrays of {dtype}.")
    return jnp.dtype(jnp.bfloat16 if dtype == jnp.bfloat16 and bfloat16_pays() else jnp.float32)


def _call(
    builder: Callable,
    arguments: tuple,
    out: Sequence[jax.ShapeDtypeStruct],
    inputs: Sequence[jax.Array],
    alone: bool = False,
):
    """Runs what `builder(Builder, *arguments)` builds, in one thread if `alone`; several results are a list, one is itself."""
    link = bridge()
    threads = 1 if alone else link.onednn.cores
    what = f"{builder.__name__}{arguments!r} by {threads}"
    key, further = link.key(what, lambda: builder(Builder(link.onednn), *arguments), threads)
    room = [jax.ShapeDtypeStruct((size,), jnp.uint8) for size in further]
    results = jax.ffi.ffi_call(TARGET, [*out, *room])(*inputs, key=np.int64(key))
    return results[: len(out)] if len(out) > 1 else results[0]


def convolution(a: jax.Array, b: jax.Array, kind: str, x, w, y, window: Window, groups: int) -> jax.Array:
    """One of the three convolutions of `primitives.convolution`, which says what a, b and the result are."""
    shape = dict(forward=y, input_gradient=x, weight_gradient=w)[kind]
    dtype = computes_in(a.dtype)
    depthwise = groups == x[-1] > 1  # one product a value: the conversions cost more than they bring
    # Of a picture that is smaller than a stride oneDNN 3.2 reads beyond the end, in weight gradients of bfloat16.
    beyond = any(size < stride for size, stride in zip(x[1:-1], window.strides))
    narrow = x[-1] == 1  # what multiplies bfloat16 takes channels in pairs and more: most of it would be zeros
    if depthwise or beyond or narrow:
        dtype = jnp.dtype(jnp.float32)
    arguments = (kind, x, w, y, TYPES[dtype.name], window, groups)
    out = jax.ShapeDtypeStruct(shape, dtype)
    alone = prod(y) * prod(w[:-1]) <= alone_up_to(dtype.name)
    return _call(primitives.convolution, arguments, [out], (a.astype(dtype), b.astype(dtype)), alone).astype(a.dtype)


def product(a: jax.Array, b: jax.Array, turned: tuple[bool, bool]) -> jax.Array:
    """`a @ b`, `[M, K]` and `[K, N]`, each stored the other way round where it is `turned`."""
    shape = (a.shape[1 if turned[0] else 0], b.shape[0 if turned[1] else 1])
    dtype = computes_in(a.dtype)
    arguments = (a.shape, b.shape, shape, TYPES[dtype.name], *turned)
    out = jax.ShapeDtypeStruct(shape, dtype)
    alone = a.size * shape[1] <= alone_up_to(dtype.name)
    return _call(primitives.product, arguments, [out], (a.astype(dtype), b.astype(dtype)), alone).astype(a.dtype)


def max_pool_gradient(dy: jax.Array, place: jax.Array, shape: tuple[int, ...], window: Window, size: tuple[int, ...]):
    """(dy, place) -> dx in a shape; place `[B, *out, C]` uint8 numbers the pixels of a window row by row."""
    kind = computes_in(dy.dtype)
    arguments = (shape, dy.shape, TYPES[kind.name], window, size)
    dx = _call(primitives.max_pool_gradient, arguments, [jax.ShapeDtypeStruct(shape, kind)], (dy.astype(kind), place))
    return dx.astype(dy.dtype)


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float):
    """(y, mean, var): normalised over all axes but the last; statistics, scale and bias are float32.

    Not of float32: oneDNN's sums of 100,000 values are 1e-5 off, and y 1e-4 where the mean is 100 deviations.
    """
    if x.dtype == jnp.float32:
        raise Unsupported("Statistics as exact as float32.")
    kind = computes_in(x.dtype)
    channel = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    arguments = (False, x.shape, TYPES[kind.name], epsilon)
    out = [jax.ShapeDtypeStruct(x.shape, kind), channel, channel]
    y, mean, var = _call(primitives.batch_norm, arguments, out, (x.astype(kind), scale, bias))
    return y.astype(x.dtype), mean, var


def batch_norm_gradient(dy: jax.Array, x: jax.Array, mean, var, scale, epsilon: float):
    """(dx, dscale, dbias) of `batch_norm`'s y."""
    kind = computes_in(x.dtype)
    channel = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    arguments = (True, x.shape, TYPES[kind.name], epsilon)
    out = [jax.ShapeDtypeStruct(x.shape, kind), channel, channel]
    dx, dscale, dbias = _call(
        primitives.batch_norm, arguments, out, (dy.astype(kind), x.astype(kind), mean, var, scale)
    )
    return dx.astype(x.dtype), dscale, dbias


def _response_computes_in(shape: tuple[int, ...], dtype) -> np.dtype:
    """Of more than 16 channels, no multiple of 16, oneDNN 3.2 computes wrong gradients in bfloat16."""
    odd = shape[-1] > 16 and shape[-1] % 16
    return jnp.dtype(jnp.float32) if odd else computes_in(dtype)


@functools.cache
def _workspace_of(shape: tuple[int, ...], *parameters) -> int:
    return primitives.response_norm_workspace(Builder(bridge().onednn), shape, *parameters)


def response_workspace(shape: tuple[int, ...], dtype, n: int, k: float, alpha: float, beta: float) -> int:
    """Bytes that `response_norm` keeps for its gradient."""
    return _workspace_of(shape, TYPES[_response_computes_in(shape, dtype).name], n, k, alpha, beta)


def response_norm(x: jax.Array, n: int, k: float, alpha: float, beta: float):
    """x -> (y, workspace), local response normalisation across channels."""
    kind = _response_computes_in(x.shape, x.dtype)
    size = response_workspace(x.shape, x.dtype, n, k, alpha, beta)
    arguments = (False, x.shape, TYPES[kind.name], n, k, alpha, beta)
    out = [jax.ShapeDtypeStruct(x.shape, kind), jax.ShapeDtypeStruct((size,), jnp.uint8)]
    y, workspace = _call(primitives.response_norm, arguments, out, (x.astype(kind),))
    return y.astype(x.dtype), workspace


def response_norm_gradient(dy: jax.Array, x: jax.Array, workspace, n: int, k: float, alpha: float, beta: float):
    """(dy, x, workspace) -> dx."""
    kind = _response_computes_in(x.shape, x.dtype)
    arguments = (True, x.shape, TYPES[kind.name], n, k, alpha, beta)
    out = [jax.ShapeDtypeStruct(x.shape, kind)]
    dx = _call(primitives.response_norm, arguments, out, (dy.astype(kind), x.astype(kind), workspace))
    return dx.astype(x.dtype)

"""Normalisation of activations. All keep their statistics and parameters in float32."""

import contextlib
import contextvars
from collections.abc import Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels

_batch_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar("batch_axis", default=None)


@contextlib.contextmanager
def batch_axis(name: str | None) -> Iterator[None]:
    """While a network is traced inside, its batch is spread over the devices of a named axis (`pmap`, `shard_map`).

    The training step says so; models need not know. Under `jit` over a mesh the batch is the global one: None.
    """
    token = _batch_axis.set(name)
    try:
        yield
    finally:
        _batch_axis.reset(token)


class BatchNorm(nn.Module):
    """Ioffe & Szegedy 2015, with the statistics of the whole batch on however many devices (all hold equally many).

    `[B, *spatial, C]`. Parameters and running statistics as `flax.linen.BatchNorm`: `scale`, `bias`, and in
    `batch_stats` `mean` and `var` (biased), decaying with `momentum`. Say `use_running_average=not train` in the call,
    so that the training step can hold the statistics of frozen layers.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones_init()
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        x = x.astype(self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        if use_running_average:
            return _normalized(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
        y, mean, var = self._of_batch(x, scale, bias)
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return y

    @nn.nowrap
    def _of_batch(self, x: jax.Array, scale: jax.Array, bias: jax.Array):
        """(y, mean, var) by the statistics of the batch."""
        axis = None if self.is_initializing() else _batch_axis.get()
        if axis is None and (found := kernels.batch_norm(x, scale, bias, self.epsilon)):
            return found
        wide, axes = x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(x.ndim - 1))
        moments = jnp.stack([wide.mean(axes), (wide * wide).mean(axes)])
        mean, square = jax.lax.pmean(moments, axis) if axis else moments
        var = jnp.maximum(0.0, square - mean * mean)
        return _normalized(x, mean, var, scale, bias, self.epsilon), mean, var


def _normalized(x, mean, var, scale, bias, epsilon: float) -> jax.Array:
    mean, factor, bias = (
        value.reshape((1,) * (x.ndim - 1) + (-1,)) for value in (mean, scale * jax.lax.rsqrt(var + epsilon), bias)
    )
    return ((x - mean) * factor + bias).astype(x.dtype)


GroupNorm = nn.GroupNorm  # Wu & He 2018
LayerNorm = nn.LayerNorm  # Ba, Kiros & Hinton 2016


class LocalResponseNorm(nn.Module):
    """Cross-channel normalisation (Krizhevsky, Sutskever & Hinton 2012, 3.3). `[B, *spatial, C]`.

    b_i = a_i / (k + alpha * sum of a_j^2)^beta, the sum over `n` channels around i, as many of them as there are.

    The paper's convention: alpha multiplies the *sum*. PyTorch and Caffe divide by n first: their alpha is n times
    this one. Of an even n, the channel more stands before i. Computed in float32.
    """

    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        found = kernels.local_response_norm(x, n=self.n, k=self.k, alpha=self.alpha, beta=self.beta)
        if found is not None:
            return found
        a = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        before, after = self.n // 2, (self.n - 1) // 2
        squares = jnp.pad(a * a, [(0, 0)] * (x.ndim - 1) + [(before, after)])
        total = sum(squares[..., j : j + x.shape[-1]] for j in range(self.n))
        return (a * (self.k + self.alpha * total) ** -self.beta).astype(x.dtype)


GROUP_SIZE = 8  # channels
NORMALIZATIONS = ("batch", "group", "layer", "none")
LOCAL_RESPONSE = "local_response"  # a kind besides: it belongs after the non-linearity, so that a block must know of it


def normalization(kind: str, train: bool, **kwargs):
    """The normalisation of a kind, a function of x `[B, *spatial, C]`; 'none' is the identity."""
    if kind == "batch":
        return partial(BatchNorm(**kwargs), use_running_average=not train)
    if kind == "group":
        return GroupNorm(num_groups=None, group_size=GROUP_SIZE, **kwargs)
    if kind == "layer":
        return LayerNorm(**kwargs)
    if kind == "none":
        return lambda x: x
    if kind == LOCAL_RESPONSE:
        return LocalResponseNorm()
    raise ValueError(f"There is no normalisation {kind!r}: one of {', '.join(NORMALIZATIONS)}.")

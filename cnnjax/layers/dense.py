"""Fully connected layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels


class Dense(nn.Module):
    """A fully connected layer, `[..., K]` -> `[..., features]`. Parameters as `flax.linen.Dense`: `kernel`, `bias`."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = nn.linear.default_kernel_init
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = kernels.dense(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=self.precision)
        return y if bias is None else kernels.add_bias(y, bias)


class Flatten(nn.Module):
    """`[B, *spatial, C]` -> `[B, spatial * C]`, channels fastest."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Logits leave a network in float32 whatever it computes in (float64 stays): losses are sums of exponentials."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

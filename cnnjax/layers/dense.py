"""Fully connected layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels


class Dense(nn.Dense):
    """A fully connected layer, `[..., K]` -> `[..., features]`: as `flax.linen.Dense`."""

    def __post_init__(self):
        self.dot_general = self.dot_general or kernels.dense
        super().__post_init__()


class Flatten(nn.Module):
    """`[B, *spatial, C]` -> `[B, spatial * C]`, channels fastest."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Logits leave a network in float32 whatever it computes in (float64 stays): losses are sums of exponentials."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

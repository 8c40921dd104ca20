"""Fully connected layers."""

import flax.linen as nn
import jax

Dense = nn.Dense


class Flatten(nn.Module):
    """`[B, *spatial, C]` -> `[B, spatial * C]`, channels fastest."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

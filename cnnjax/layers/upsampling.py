"""Enlarging by interpolation, as a Module without parameters, so that a table of layers shows it."""

import flax.linen as nn
import jax


class Upsample(nn.Module):
    """`[B, *spatial, C]` -> `[B, *(spatial * scale), C]`, by `method` 'nearest' or 'linear', as `jax.image.resize`."""

    scale: int = 2
    method: str = "nearest"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.image.resize(x, (x.shape[0], *(n * self.scale for n in x.shape[1:-1]), x.shape[-1]), self.method)

"""Cropping, as a Module without parameters, so that a table of layers shows it."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class CentreCrop(nn.Module):
    """The middle of `[B, *spatial, C]`, `size` positions along each axis; of an odd difference more goes at the end."""

    size: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        starts = [(n - size) // 2 for n, size in zip(x.shape[1:-1], self.size)]
        return x[(slice(None), *(slice(start, start + size) for start, size in zip(starts, self.size)))]

"""A weight for each channel of a residual branch."""

from typing import Any

import flax.linen as nn
import jax


class LayerScale(nn.Module):
    """x times one learnt number for each channel, all `initial` at first (Touvron et al. 2021, "Going deeper with
    image transformers", section 2). `[B, *spatial, C]`.
    """

    initial: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * scale.astype(self.dtype or x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))

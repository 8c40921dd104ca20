"""Channels weighed by what the whole picture holds."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cnnjax.layers.convolution import Conv
from cnnjax.layers.pooling import GlobalAveragePool


class SqueezeExcite(nn.Module):
    """x times a gate for each channel, made of the mean of every channel (Hu, Shen & Sun 2018). `[B, *spatial, C]`.

    Through its gate every output position sees the whole picture.
    """

    features: int  # channels of the bottleneck
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        squeezed = GlobalAveragePool()(x)
        squeezed = squeezed.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        one = (1,) * (x.ndim - 2)
        squeezed = self.activation(Conv(self.features, one, dtype=self.dtype, name="reduce")(squeezed))
        return x * self.gate(Conv(x.shape[-1], one, dtype=self.dtype, name="expand")(squeezed))

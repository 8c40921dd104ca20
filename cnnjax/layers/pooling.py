"""Pooling, as Modules without parameters, so that a table of layers shows them."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MaxPool(nn.Module):
    """The largest value of each window. `[B, *spatial, C]`; strides default to the window: no overlap."""

    window: Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, tuple(self.window), strides=tuple(self.strides or self.window), padding=self.padding)


class AveragePool(nn.Module):
    """The mean of each window. `[B, *spatial, C]`; strides default to the window; padding counts as zeros."""

    window: Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.avg_pool(x, tuple(self.window), strides=tuple(self.strides or self.window), padding=self.padding)


class GlobalAveragePool(nn.Module):
    """The mean over all positions, taken in float32: `[B, *spatial, C]` -> `[B, C]` (Lin, Chen & Yan 2013)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean(axis=tuple(range(1, x.ndim - 1)), dtype="float32").astype(x.dtype)


POOLINGS = dict(max=MaxPool, average=AveragePool)


def pooling(name: str, window: Sequence[int], **kwargs) -> nn.Module:
    """Pooling of a name, 'max' or 'average'."""
    return POOLINGS[name](window=window, **kwargs)

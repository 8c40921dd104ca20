"""Normalisation of activations. All keep their statistics and parameters in float32."""

from functools import partial

import flax.linen as nn

# Ioffe & Szegedy 2015. Say `use_running_average=not train` in the call, not in the constructor, so that the training step
# can hold the statistics of frozen layers. The batch is the global one under `jit` over a mesh.
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
GroupNorm = nn.GroupNorm  # Wu & He 2018
LayerNorm = nn.LayerNorm  # Ba, Kiros & Hinton 2016

GROUP_SIZE = 8  # channels
NORMALIZATIONS = ("batch", "group", "layer", "none")


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
    raise ValueError(f"There is no normalisation {kind!r}: one of {', '.join(NORMALIZATIONS)}.")

"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", table 9).

With 1,000 classes the tiny one has 28,589,128 parameters, small 50,223,688, base 88,591,464.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob

truncated_normal = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "convnext_tiny"
    stage_sizes: tuple[int, ...] = knob((3, 3, 9, 3), "blocks of each stage", low=1)
    width: int = knob(96, "channels of the first stage; each later one has twice as many", low=1)
    kernel_size: int = knob(7, "pixels: side of the depthwise convolutions, odd", low=1)
    layer_scale: float = knob(1e-6, "first weight of every residual branch", above=0)
    stochastic_depth: float = knob(
        0.1, "probability of leaving out the last residual branch, rising from 0", low=0, below=1
    )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return ConvNeXt(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        shrunk = dict(stage_sizes=(1,) * len(self.stage_sizes), width=self.width // 8)
        return dataclasses.replace(self, layer_scale=0.1, stochastic_depth=0.0, **shrunk)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)


VARIANTS = {
    "convnext_tiny": Options(),
    "convnext_small": Options("convnext_small", (3, 3, 27, 3), stochastic_depth=0.4),
    "convnext_base": Options("convnext_base", (3, 3, 27, 3), 128, stochastic_depth=0.5),
}


def _norm(dtype, name: str) -> nn.Module:
    return layers.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class Block(nn.Module):
    """Depthwise convolution, LayerNorm over channels, and two dense layers at every position, added to x."""

    features: int
    kernel: int
    layer_scale: float
    drop: float
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.Conv(
            self.features,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            feature_group_count=self.features,
            kernel_init=truncated_normal,
            dtype=self.dtype,
            name="depthwise",
        )(x)
        y = _norm(self.dtype, "norm")(y)
        y = layers.Dense(4 * self.features, kernel_init=truncated_normal, dtype=self.dtype, name="expand")(y)
        y = layers.GELU(name="gelu")(y)
        y = layers.Dense(self.features, kernel_init=truncated_normal, dtype=self.dtype, name="project")(y)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (self.features,))
        y = y * scale.reshape(1, 1, 1, -1).astype(y.dtype)
        return x + layers.StochasticDepth(self.drop, name="drop")(y, deterministic=not self.train)


class ConvNeXt(nn.Module):
    """Patches of 4x4, stages of blocks with halving between them, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        block = nn.remat(Block) if self.remat else Block
        patches = lambda n, size, name: layers.Conv(
            n, (size, size), strides=size, padding="VALID", kernel_init=truncated_normal, dtype=self.dtype, name=name
        )
        x = _norm(self.dtype, "stem_norm")(patches(o.width, 4, "stem")(x.astype(self.dtype)))
        number = 0
        for stage, size in enumerate(o.stage_sizes, 1):
            features = o.width * 2 ** (stage - 1)
            if stage > 1:
                x = patches(features, 2, f"halve{stage}")(_norm(self.dtype, f"halve{stage}_norm")(x))
            for index in range(size):
                drop = o.stochastic_depth * number / max(1, sum(o.stage_sizes) - 1)
                x = block(
                    features,
                    o.kernel_size,
                    o.layer_scale,
                    drop,
                    train,
                    self.dtype,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
                number += 1
        x = _norm(self.dtype, "norm")(layers.GlobalAveragePool(name="mean")(x))
        logits = layers.Dense(self.num_classes, kernel_init=truncated_normal, dtype=self.dtype, name="fc")(x)
        return layers.at_least_float32(logits)

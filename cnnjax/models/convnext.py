"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell & Xie 2022, "A ConvNet for the 2020s", section 2 and appendix A).

28,589,128 / 50,223,688 / 88,591,464 parameters for tiny / small / base with 1,000 classes. Weights begin from a normal
distribution of standard deviation 0.02, truncated at two of them, biases as zeros (appendix A.1). The probability that a
residual branch is left out while training rises linearly with depth from 0 (Huang et al. 2016).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.knobs import knob

EPSILON = 1e-6  # of LayerNorm
INITIAL = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "convnext_tiny"
    blocks: tuple[int, ...] = knob((3, 3, 9, 3), "blocks of each stage", low=1)
    width: tuple[int, ...] = knob((96, 192, 384, 768), "channels of each stage", low=1)
    kernel_size: int = knob(7, "pixels: side of the depthwise convolutions, odd", low=1, high=63)
    stochastic_depth: float = knob(0.1, "probability that the last residual branch is left out", low=0, below=1)
    layer_scale: float = knob(1e-6, "what each channel of a residual branch is first multiplied by; 0: no scale", low=0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)

    def narrow(self) -> "Options":
        return dataclasses.replace(
            self, blocks=(1,) * len(self.blocks), width=tuple(max(1, n // 8) for n in self.width)
        )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        if len(self.blocks) != len(self.width):
            raise UserError(f"config.model.blocks={self.blocks} and config.model.width={self.width} must be as many.")
        if self.kernel_size % 2 == 0:
            raise UserError(f"config.model.kernel_size={self.kernel_size} must be odd.")
        return ConvNeXt(
            num_classes,
            self.blocks,
            self.width,
            self.kernel_size,
            self.stochastic_depth,
            self.layer_scale,
            dtype,
            remat,
        )


class Block(nn.Module):
    """Depthwise convolution, LayerNorm, and a perceptron of one hidden layer at each position. `[B, H, W, C]`."""

    kernel_size: int
    drop_rate: float  # probability that the branch is left out
    layer_scale: float
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        dense = lambda features, name: layers.Dense(features, kernel_init=INITIAL, dtype=self.dtype, name=name)
        y = layers.Conv(
            features,
            (self.kernel_size, self.kernel_size),
            padding=self.kernel_size // 2,
            feature_group_count=features,
            kernel_init=INITIAL,
            dtype=self.dtype,
            name="depthwise",
        )(x)
        y = layers.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(y)
        y = layers.GELU(name="gelu")(dense(4 * features, "expand")(y))
        y = dense(features, "project")(y)
        if self.layer_scale:
            y = layers.LayerScale(self.layer_scale, dtype=self.dtype, name="scale")(y)
        return x + layers.StochasticDepth(self.drop_rate)(y, deterministic=not self.train)


class ConvNeXt(nn.Module):
    """The network of `Options`."""

    num_classes: int
    blocks: tuple[int, ...]
    width: tuple[int, ...]
    kernel_size: int
    stochastic_depth: float
    layer_scale: float
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        norm = lambda name: layers.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=name)
        block = nn.remat(Block) if self.remat else Block
        x, done = x.astype(self.dtype), 0
        for stage, (blocks, features) in enumerate(zip(self.blocks, self.width), 1):
            # The stem is a 4x4 convolution of stride 4; later stages begin with LayerNorm and a 2x2 one of stride 2.
            side = 4 if stage == 1 else 2
            name = "stem" if stage == 1 else f"downsample{stage}"
            if stage > 1:
                x = norm(f"{name}_norm")(x)
            x = layers.Conv(
                features,
                (side, side),
                strides=(side, side),
                padding="VALID",
                kernel_init=INITIAL,
                dtype=self.dtype,
                name=name,
            )(x)
            if stage == 1:
                x = norm("stem_norm")(x)
            for index in range(blocks):
                drop_rate = self.stochastic_depth * done / max(1, sum(self.blocks) - 1)
                x = block(
                    self.kernel_size,
                    drop_rate,
                    self.layer_scale,
                    train,
                    self.dtype,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
                done += 1
        x = norm("norm_last")(layers.GlobalAveragePool(name="pool_last")(x))
        x = layers.Dense(self.num_classes, kernel_init=INITIAL, dtype=self.dtype, name="fc")(x)
        return layers.at_least_float32(x)


VARIANTS = {
    "convnext_tiny": Options(),
    "convnext_small": Options("convnext_small", (3, 3, 27, 3), stochastic_depth=0.4),
    "convnext_base": Options("convnext_base", (3, 3, 27, 3), (128, 256, 512, 1024), stochastic_depth=0.5),
}

"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks",
table 2). 3,504,872 parameters at width 1 with 1,000 classes.

Channels are multiples of eight at every width, as in the authors' code. Convolutions begin as in He et al. 2015 (fan
out), the last layer from N(0, 0.01).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.knobs import knob

# Table 2: (expansion, channels, stride of the first block) of each stage; `Options.blocks` has how often it repeats.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
STEM = 32  # channels


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "mobilenetv2"
    width: float = knob(1.0, "multiplies the channels, which stay multiples of 8", above=0)
    blocks: tuple[int, ...] = knob((1, 2, 3, 4, 3, 3, 1), "inverted residuals of each stage, seven numbers", low=1)
    head: int = knob(1280, "channels of the last convolution; a width above 1 multiplies them as well", low=1)
    dropout: float = knob(0.2, "probability, before the last layer", low=0, below=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)

    def narrow(self) -> "Options":
        return dataclasses.replace(
            self, width=self.width / 8, blocks=(1,) * len(self.blocks), head=max(1, self.head // 8)
        )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        if len(self.blocks) != len(STAGES):
            raise UserError(f"config.model.blocks={self.blocks} must be {len(STAGES)} numbers, one for each stage.")
        return MobileNetV2(num_classes, self.width, self.blocks, self.head, self.dropout, dtype, remat)


def channels(published: float) -> int:
    """The nearest multiple of 8, at least 8, and not below nine tenths of what is asked for."""
    rounded = max(8, int(published + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * published else rounded + 8


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, depthwise convolution, 1x1 convolution without activation.

    `[B, H, W, C]` -> `[B, H/stride, W/stride, features]`, with a shortcut where the shapes are equal. EfficientNet's
    block weighs channels by `squeeze` channels (0: not) after the depthwise convolution.
    """

    features: int
    side: int
    stride: int
    expansion: int
    activation: str
    squeeze: int
    drop_rate: float  # probability that the branch is left out
    normalization: dict  # BatchNorm's momentum and epsilon
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        expanded = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = self.activated("expand", y, expanded, 1)
        y = self.activated(
            "depthwise", y, expanded, self.side, strides=(self.stride,) * 2, feature_group_count=expanded
        )
        if self.squeeze:
            act = layers.activation(self.activation, name="squeeze_activation")
            y = layers.SqueezeExcite(self.squeeze, activation=act, dtype=self.dtype, name="squeeze_excite")(y)
        y = self.convolved("project", y, self.features, 1)
        if y.shape != x.shape:
            return y
        return x + layers.StochasticDepth(self.drop_rate)(y, deterministic=not self.train)

    def convolved(self, name: str, x: jax.Array, features: int, side: int, **kwargs) -> jax.Array:
        return conv_norm(name, x, features, side, self.train, self.dtype, self.normalization, **kwargs)

    def activated(self, name: str, *args, **kwargs) -> jax.Array:
        return layers.activation(self.activation, name=f"{name}_activation")(self.convolved(name, *args, **kwargs))


def conv_norm(
    name: str, x: jax.Array, features: int, side: int, train: bool, dtype: jnp.dtype, normalization: dict, **kwargs
) -> jax.Array:
    """Convolution `name` and BatchNorm `name_norm`, inside the `nn.compact` method that calls it."""
    x = layers.Conv(
        features,
        (side, side),
        padding=side // 2,
        use_bias=False,
        kernel_init=layers.he_normal(),
        dtype=dtype,
        name=name,
        **kwargs,
    )(x)
    return layers.BatchNorm(dtype=dtype, name=f"{name}_norm", **normalization)(x, use_running_average=not train)


class MobileNetV2(nn.Module):
    """The network of `Options`."""

    num_classes: int
    width: float
    blocks: tuple[int, ...]
    head: int
    dropout: float
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        block = nn.remat(InvertedResidual) if self.remat else InvertedResidual
        x = conv_norm(
            "conv1", x.astype(self.dtype), channels(STEM * self.width), 3, train, self.dtype, {}, strides=(2, 2)
        )
        x = layers.ReLU6(name="relu1")(x)
        for stage, ((expansion, published, stride), blocks) in enumerate(zip(STAGES, self.blocks, strict=True), 1):
            for index in range(blocks):
                x = block(
                    channels(published * self.width),
                    side=3,
                    stride=1 if index else stride,
                    expansion=expansion,
                    activation="relu6",
                    squeeze=0,
                    drop_rate=0.0,
                    normalization={},
                    train=train,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
        x = conv_norm("conv2", x, channels(self.head * max(1.0, self.width)), 1, train, self.dtype, {})
        x = layers.ReLU6(name="relu2")(x)
        x = layers.GlobalAveragePool(name="pool_last")(x)
        x = layers.Dropout(self.dropout, deterministic=not train)(x)
        x = layers.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name="fc")(x)
        return layers.at_least_float32(x)


VARIANTS = {"mobilenetv2": Options()}

"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2).

With 1,000 classes 3,504,872 parameters.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob

# Expansion, channels, blocks, stride of the first.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "mobilenetv2"
    width: float = knob(1.0, "times the paper's channels, in multiples of `multiple`", above=0)
    multiple: int = knob(8, "channels come in multiples of this", low=1)
    stage_sizes: tuple[int, ...] = knob(tuple(s[2] for s in STAGES), "blocks of each of the seven stages", low=1)
    dropout: float = knob(0.2, "probability, before the last layer", low=0, below=1)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return MobileNetV2(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, width=1 / 8, multiple=1, stage_sizes=(1,) * len(STAGES), dropout=0.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)


VARIANTS = {"mobilenetv2": Options()}


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, and ReLU6 unless it is linear."""

    features: int
    kernel: int
    stride: int
    groups: int
    linear: bool
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=layers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = layers.BatchNorm(dtype=self.dtype, name="norm")(x, use_running_average=not self.train)
        return x if self.linear else layers.ReLU6(name="relu6")(x)


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, and narrows without a non-linearity (section 3.3)."""

    expansion: int
    features: int
    stride: int
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = lambda n, kernel, stride, groups, linear, name: ConvNorm(
            n, kernel, stride, groups, linear, self.train, self.dtype, name=name
        )
        y, inner = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = conv(inner, 1, 1, 1, False, "expand")(y)
        y = conv(inner, 3, self.stride, inner, False, "depthwise")(y)
        y = conv(self.features, 1, 1, 1, True, "project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Stem, seven stages, a 1x1 convolution, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        block = nn.remat(InvertedResidual) if self.remat else InvertedResidual
        channels = lambda n: rounded(n * o.width, o.multiple)
        x = ConvNorm(channels(32), 3, 2, 1, False, train, self.dtype, name="conv1")(x.astype(self.dtype))
        for stage, ((expansion, features, _, first), size) in enumerate(zip(STAGES, o.stage_sizes), 1):
            for index in range(size):
                stride = first if index == 0 else 1
                name = f"stage{stage}_block{index + 1}"
                x = block(expansion, channels(features), stride, train, self.dtype, name=name)(x)
        # The last features are not made fewer than the paper's, but in narrow forms for tests.
        last = rounded(1280 * max(1.0, o.width), 8) if o.multiple > 1 else channels(1280)
        x = ConvNorm(last, 1, 1, 1, False, train, self.dtype, name="conv2")(x)
        x = layers.GlobalAveragePool(name="mean")(x)
        x = layers.Dropout(o.dropout, deterministic=not train, name="drop")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))


def rounded(channels: float, multiple: int) -> int:
    """The nearest multiple, but not less than nine tenths of what was asked for."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest + multiple if nearest < 0.9 * channels else nearest

"""EfficientNet (Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1).

B0, with 1,000 classes 5,288,548 parameters, and B1 to B7, the same scaled in width, depth and input. Padding is
symmetric, where the authors' code pads strided convolutions below and on the right.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob
from cnnjax.models.mobilenet import rounded

# Expansion, channels, blocks, stride of the first, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "efficientnet_b0"
    width: float = knob(1.0, "times B0's channels, in multiples of `multiple`", above=0)
    multiple: int = knob(8, "channels come in multiples of this", low=1)
    depth: float = knob(1.0, "times B0's blocks in each stage, rounded up; 0: one each", low=0)
    input_size: int = knob(224, "pixels: the side that the paper trains it on; any other can be fed", low=1)
    dropout: float = knob(0.2, "probability, before the last layer", low=0, below=1)
    stochastic_depth: float = knob(
        0.2, "probability of leaving out the last residual branch, rising from 0", low=0, below=1
    )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return EfficientNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        shrunk = dict(width=1 / 8, multiple=1, depth=0.0, input_size=32)
        return dataclasses.replace(self, dropout=0.0, stochastic_depth=0.0, **shrunk)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.input_size, self.input_size, 3)


# Width, depth, input and dropout of each, from the authors' code.
VARIANTS = {
    f"efficientnet_b{n}": Options(f"efficientnet_b{n}", width, 8, depth, size, dropout)
    for n, (width, depth, size, dropout) in enumerate(
        [
            (1.0, 1.0, 224, 0.2),
            (1.0, 1.1, 240, 0.2),
            (1.1, 1.2, 260, 0.3),
            (1.2, 1.4, 300, 0.3),
            (1.4, 1.8, 380, 0.4),
            (1.6, 2.2, 456, 0.4),
            (1.8, 2.6, 528, 0.5),
            (2.0, 3.1, 600, 0.5),
        ]
    )
}


class ConvNorm(nn.Module):
    """Convolution, BatchNorm with the authors' constants, and SiLU unless it is linear."""

    features: int
    kernel: int
    train: bool
    dtype: jnp.dtype
    stride: int = 1
    groups: int = 1
    linear: bool = False

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
        norm = layers.BatchNorm(momentum=0.99, epsilon=1e-3, dtype=self.dtype, name="norm")
        x = norm(x, use_running_average=not self.train)
        return x if self.linear else layers.SiLU(name="silu")(x)


class MBConv(nn.Module):
    """Inverted residual with squeeze-and-excite. `[B, H, W, C]` -> `[B, H / stride, W / stride, features]`."""

    expansion: int
    features: int
    kernel: int
    stride: int
    drop: float
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = lambda n, kernel, name, **kwargs: ConvNorm(n, kernel, self.train, self.dtype, name=name, **kwargs)
        y, inner = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = conv(inner, 1, "expand")(y)
        y = conv(inner, self.kernel, "depthwise", stride=self.stride, groups=inner)(y)
        y = layers.SqueezeExcite(max(1, x.shape[-1] // 4), nn.silu, dtype=self.dtype, name="excite")(y)
        y = conv(self.features, 1, "project", linear=True)(y)
        if x.shape != y.shape:
            return y
        return x + layers.StochasticDepth(self.drop, name="drop")(y, deterministic=not self.train)


class EfficientNet(nn.Module):
    """Stem, seven stages, a 1x1 convolution, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        block = nn.remat(MBConv) if self.remat else MBConv
        channels = lambda n: rounded(n * o.width, o.multiple)
        sizes = [max(1, math.ceil(size * o.depth)) for _, _, size, _, _ in STAGES]
        x = ConvNorm(channels(32), 3, train, self.dtype, stride=2, name="conv1")(x.astype(self.dtype))
        number = 0
        for stage, ((expansion, features, _, first, kernel), size) in enumerate(zip(STAGES, sizes), 1):
            for index in range(size):
                drop = o.stochastic_depth * number / sum(sizes)
                stride = first if index == 0 else 1
                name = f"stage{stage}_block{index + 1}"
                x = block(expansion, channels(features), kernel, stride, drop, train, self.dtype, name=name)(x)
                number += 1
        x = ConvNorm(channels(1280), 1, train, self.dtype, name="conv2")(x)
        x = layers.GlobalAveragePool(name="mean")(x)
        x = layers.Dropout(o.dropout, deterministic=not train, name="drop")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))

"""DenseNet-BC (Huang, Liu, van der Maaten & Weinberger 2017, "Densely connected convolutional networks", table 1).

Every layer of a block sees the maps of all before it. With 1,000 classes DenseNet-121 has 7,978,856 parameters, -169
14,149,480 and -201 20,013,928.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob

BOTTLENECK = 4  # the 1x1 convolution makes four times the growth


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "densenet121"
    stage_sizes: tuple[int, ...] = knob((6, 12, 24, 16), "layers of each dense block", low=1)
    growth: int = knob(32, "channels that each layer adds", low=1)
    compression: float = knob(0.5, "part of the channels that a transition keeps", above=0, high=1)
    dropout: float = knob(0.0, "probability, after each layer of a dense block", low=0, below=1)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return DenseNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, stage_sizes=(1,) * len(self.stage_sizes), growth=self.growth // 8)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)


VARIANTS = {
    name: Options(name, sizes)
    for name, sizes in {
        "densenet121": (6, 12, 24, 16),
        "densenet169": (6, 12, 32, 32),
        "densenet201": (6, 12, 48, 32),
    }.items()
}


class NormReLUConv(nn.Module):
    """BatchNorm, ReLU, convolution."""

    features: int
    kernel: int
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.BatchNorm(dtype=self.dtype, name="norm")(x, use_running_average=not self.train)
        return layers.Conv(
            self.features,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            use_bias=False,
            kernel_init=layers.he_normal("fan_in"),
            dtype=self.dtype,
            name="conv",
        )(layers.ReLU(name="relu")(x))


class DenseLayer(nn.Module):
    """Adds `growth` channels to what is there. `[B, H, W, C]` -> `[B, H, W, C + growth]`."""

    growth: int
    dropout: float
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = NormReLUConv(BOTTLENECK * self.growth, 1, self.train, self.dtype, name="bottleneck")(x)
        y = NormReLUConv(self.growth, 3, self.train, self.dtype, name="grow")(y)
        if self.dropout:
            y = layers.Dropout(self.dropout, deterministic=not self.train)(y)
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        layer = nn.remat(DenseLayer) if self.remat else DenseLayer
        norm = lambda name: lambda x: layers.BatchNorm(dtype=self.dtype, name=name)(x, use_running_average=not train)
        x = layers.Conv(
            2 * o.growth,
            (7, 7),
            strides=2,
            padding=3,
            use_bias=False,
            kernel_init=layers.he_normal("fan_in"),
            dtype=self.dtype,
            name="conv1",
        )(x.astype(self.dtype))
        x = layers.ReLU(name="relu1")(norm("norm1")(x))
        x = layers.MaxPool((3, 3), (2, 2), padding=1, name="pool1")(x)
        for stage, size in enumerate(o.stage_sizes, 1):
            for index in range(1, size + 1):
                x = layer(o.growth, o.dropout, train, self.dtype, name=f"block{stage}_layer{index}")(x)
            if stage < len(o.stage_sizes):
                features = max(1, int(x.shape[-1] * o.compression))
                x = NormReLUConv(features, 1, train, self.dtype, name=f"transition{stage}")(x)
                x = layers.AveragePool((2, 2), name=f"transition{stage}_pool")(x)
        x = layers.ReLU(name="relu")(norm("norm")(x))
        x = layers.GlobalAveragePool(name="mean")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))

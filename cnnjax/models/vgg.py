"""VGG (Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1).

Configurations A, B, D and E: 11, 13, 16 and 19 layers of 3x3 convolutions; with 1,000 classes 132,863,336, 133,047,848,
138,357,544 and 143,667,240 parameters. `_bn`: with BatchNorm after each convolution, whose biases stay, as usual.
Weights start as in He et al. 2015; the paper began deep networks with layers of a trained shallow one.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob

CHANNELS = (64, 128, 256, 512, 512)


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "vgg16"
    stage_sizes: tuple[int, ...] = knob((2, 2, 3, 3, 3), "3x3 convolutions before each of the five poolings", low=1)
    batch_norm: bool = knob(False, "normalise after each convolution")
    width: float = knob(1.0, "times the paper's 64, 128, 256, 512, 512 channels", above=0)
    hidden: int = knob(4096, "width of fc6 and fc7", low=1)
    dropout: float = knob(0.5, "probability, after fc6 and fc7", low=0, below=1)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return VGG(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, stage_sizes=(1,) * 5, width=1 / 8, hidden=512, dropout=0.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)


VARIANTS = {
    name + suffix: Options(name + suffix, sizes, batch_norm)
    for suffix, batch_norm in (("", False), ("_bn", True))
    for name, sizes in {
        "vgg11": (1, 1, 2, 2, 2),
        "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3),
        "vgg19": (2, 2, 4, 4, 4),
    }.items()
}


class Block(nn.Module):
    """3x3 convolution, BatchNorm if any, ReLU. `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    batch_norm: bool
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Conv(
            self.features, (3, 3), padding=1, kernel_init=layers.he_normal(), dtype=self.dtype, name="conv"
        )(x)
        if self.batch_norm:
            x = layers.BatchNorm(dtype=self.dtype, name="norm")(x, use_running_average=not self.train)
        return layers.ReLU(name="relu")(x)


class VGG(nn.Module):
    """conv1_1 ... conv5_n, fc6, fc7, fc8. Any input of at least 32x32; fc6 takes its width from it."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        block = nn.remat(Block) if self.remat else Block
        x = x.astype(self.dtype)
        for stage, (size, channels) in enumerate(zip(o.stage_sizes, CHANNELS), 1):
            for index in range(1, size + 1):
                features = max(1, round(channels * o.width))
                x = block(features, o.batch_norm, train, self.dtype, name=f"conv{stage}_{index}")(x)
            x = layers.MaxPool((2, 2), name=f"pool{stage}")(x)
        x = layers.Flatten(name="flatten")(x)
        for n in ("6", "7"):
            x = layers.Dense(o.hidden, kernel_init=layers.he_normal("fan_in"), dtype=self.dtype, name=f"fc{n}")(x)
            x = layers.ReLU(name=f"relu{n}")(x)
            x = layers.Dropout(o.dropout, deterministic=not train, name=f"drop{n}")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc8")(x))

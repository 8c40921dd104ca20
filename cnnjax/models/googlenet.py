"""GoogLeNet (Szegedy et al. 2015, "Going deeper with convolutions", table 1).

As published: local response normalisation, no BatchNorm; with 1,000 classes and without the auxiliary heads, which serve
training alone, 6,998,552 parameters. With them the network returns `dict(logits=..., auxiliary=(..., ...))` in training.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob

# Channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection; a pooling stands between 3b and 4a, and 4e and 5a.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY_AFTER = ("4a", "4d")


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "googlenet"
    auxiliary: bool = knob(False, "two more heads in training, after inceptions 4a and 4d")
    batch_norm: bool = knob(False, "BatchNorm after each convolution, instead of local response normalisation")
    width: float = knob(1.0, "times the paper's channels", above=0)
    dropout: float = knob(0.4, "probability, before the last layer", low=0, below=1)
    auxiliary_dropout: float = knob(0.7, "probability, before the last layers of the auxiliary heads", low=0, below=1)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return GoogLeNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, width=1 / 8, dropout=0.0, auxiliary_dropout=0.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3)


VARIANTS = {"googlenet": Options()}


class ConvReLU(nn.Module):
    """Convolution, BatchNorm if any, ReLU."""

    features: int
    kernel: int
    options: Options
    train: bool
    dtype: jnp.dtype
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Conv(
            max(1, round(self.features * self.options.width)),
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            use_bias=not self.options.batch_norm,
            kernel_init=layers.he_normal("fan_in"),
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.options.batch_norm:
            x = layers.BatchNorm(dtype=self.dtype, name="norm")(x, use_running_average=not self.train)
        return layers.ReLU(name="relu")(x)


class Inception(nn.Module):
    """Four branches of different fields of view, side by side. `[B, H, W, C]` -> `[B, H, W, sum of their channels]`."""

    channels: tuple[int, ...]
    options: Options
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, reduce3, three, reduce5, five, projection = self.channels
        conv = lambda n, kernel, name: ConvReLU(n, kernel, self.options, self.train, self.dtype, name=name)
        pooled = layers.MaxPool((3, 3), (1, 1), padding=1, name="pool")(x)
        branches = (
            conv(one, 1, "conv1x1")(x),
            conv(three, 3, "conv3x3")(conv(reduce3, 1, "reduce3x3")(x)),
            conv(five, 5, "conv5x5")(conv(reduce5, 1, "reduce5x5")(x)),
            conv(projection, 1, "projection")(pooled),
        )
        return jnp.concatenate(branches, axis=-1)


class Auxiliary(nn.Module):
    """A head in the middle of the network (section 5). `[B, H, W, C]` -> logits `[B, num_classes]` float32."""

    num_classes: int
    options: Options
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        o = self.options
        x = layers.AveragePool((5, 5), (3, 3), name="pool")(x)
        x = layers.Flatten(name="flatten")(ConvReLU(128, 1, o, self.train, self.dtype, name="conv")(x))
        x = layers.ReLU(name="relu")(layers.Dense(max(1, round(1024 * o.width)), dtype=self.dtype, name="fc1")(x))
        x = layers.Dropout(o.auxiliary_dropout, deterministic=not self.train, name="drop")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc2")(x))


def _halve(x: jax.Array, name: str) -> jax.Array:
    """3x3 max pooling with stride 2, whose last window may reach beyond the border ("ceil mode"): 112 -> 56 -> 28."""
    padding = [(0, (size - 3) % 2 if size > 2 else 3 - size) for size in x.shape[1:-1]]
    return layers.MaxPool((3, 3), (2, 2), padding=padding, name=name)(x)


class GoogLeNet(nn.Module):
    """The stem, nine inceptions, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array | dict:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32; in training with auxiliary heads a dict."""
        o, heads = self.options, []
        conv = lambda n, kernel, name, stride=1: ConvReLU(n, kernel, o, train, self.dtype, stride, name=name)
        normalize = lambda name: (lambda x: x) if o.batch_norm else layers.LocalResponseNorm(name=name)
        inception = nn.remat(Inception) if self.remat else Inception
        x = normalize("norm1")(_halve(conv(64, 7, "conv1", 2)(x.astype(self.dtype)), "pool1"))
        x = normalize("norm2")(conv(192, 3, "conv2")(conv(64, 1, "reduce2")(x)))
        x = _halve(x, "pool2")
        for name, channels in INCEPTIONS.items():
            x = inception(channels, o, train, self.dtype, name=f"inception{name}")(x)
            if o.auxiliary and name in AUXILIARY_AFTER and (train or self.is_initializing()):
                heads.append(Auxiliary(self.num_classes, o, train, self.dtype, name=f"auxiliary{name}")(x))
            if name in ("3b", "4e"):
                x = _halve(x, f"pool{name[0]}")
        x = layers.GlobalAveragePool(name="mean")(x)
        x = layers.Dropout(o.dropout, deterministic=not train, name="drop")(x)
        logits = layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))
        return dict(logits=logits, auxiliary=tuple(heads)) if o.auxiliary and train else logits

"""A small convolutional network whose every part is a knob: the place for a first experiment and for ablations.

Stages of convolution, normalisation and activation, each stage but the last ended by downsampling, then global average
pooling or a flattened dense head. Two knobs take away what makes it a CNN: `connections` lets each position have weights of
its own, or connects everything (the networks of LeCun 1989, "Generalization and network design strategies"), and
`downsampling` none keeps the field of view small; dilation widens it instead (Yu & Koltun 2016).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import DoesNotFit, UserError
from cnnjax.knobs import knob

NORMALIZATIONS = (*layers.NORMALIZATIONS, layers.LOCAL_RESPONSE)


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "cnn"
    channels: tuple[int, ...] = knob((32, 64, 128), "channels of each stage", low=1)
    blocks: int = knob(2, "convolutions in each stage", low=1)
    kernel_size: int = knob(3, "pixels: side of each convolution", low=1, high=63)
    connections: str = knob(
        "shared",
        "weights of each convolution: shared by all positions, or each has its own (local); or all inputs and outputs "
        "of the layer connected (full)",
        choices=("shared", "local", "full"),
    )
    activation: str = knob("relu", "non-linearity", choices=tuple(layers.ACTIVATIONS))
    normalization: str = knob(
        "batch", "after each convolution; local_response (AlexNet): after its non-linearity", choices=NORMALIZATIONS
    )
    downsampling: str = knob(
        "max",
        "between stages: 2x2 pooling, stride 2 in the next convolution, or none; dilation: none, and stage n (from 0) "
        "looks at every 2^n-th pixel",
        choices=(*layers.POOLINGS, "stride", "dilation", "none"),
    )
    hidden: tuple[int, ...] = knob(
        (), "widths of dense layers before the last; with any, the head is flattened instead of averaged", low=1
    )
    dropout: float = knob(0.0, "probability, before each dense layer", low=0, below=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (28, 28, 1)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, channels=tuple(max(1, n // 8) for n in self.channels), blocks=1)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        if self.normalization == "group" and any(n % layers.GROUP_SIZE for n in self.channels):
            raise UserError(
                f"config.model.channels={self.channels} must be multiples of {layers.GROUP_SIZE} for normalization=group."
            )
        return CNN(num_classes, {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}, dtype, remat)


class Block(nn.Module):
    """Convolution, normalisation, activation. `[B, H, W, C]` -> `[B, H/stride, W/stride, features]`, rounded up."""

    features: int
    kernel_size: int
    stride: int
    dilation: int
    connections: str
    normalization: str
    activation: str
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self._connected(x)
        norm = layers.normalization(self.normalization, self.train, dtype=self.dtype)
        activation = layers.activation(self.activation)
        return norm(activation(x)) if self.normalization == layers.LOCAL_RESPONSE else activation(norm(x))

    def _connected(self, x: jax.Array) -> jax.Array:
        kwargs = dict(use_bias=self.normalization in ("none", layers.LOCAL_RESPONSE), dtype=self.dtype)
        if self.connections == "full":
            shape = (*(-(-n // self.stride) for n in x.shape[1:-1]), self.features)
            return layers.Dense(math.prod(shape), **kwargs)(layers.Flatten()(x)).reshape(x.shape[0], *shape)
        kind = layers.Conv if self.connections == "shared" else layers.LocallyConnected
        size = (self.kernel_size,) * 2
        return kind(self.features, size, strides=self.stride, kernel_dilation=self.dilation, **kwargs)(x)


class CNN(nn.Module):
    """The network of `Options`, held as a dict."""

    num_classes: int
    options: dict
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        pools = o["downsampling"] in layers.POOLINGS
        smallest = 2 ** (len(o["channels"]) - 1) if pools or o["downsampling"] == "stride" else 1
        if min(x.shape[1:3]) < smallest:
            raise DoesNotFit(
                f"A cnn of {len(o['channels'])} stages needs pictures of at least {smallest}x{smallest}, "
                f"not {x.shape[1]}x{x.shape[2]}: give config.model.channels fewer stages."
            )
        block = nn.remat(Block) if self.remat else Block
        x = x.astype(self.dtype)
        for stage, features in enumerate(o["channels"]):
            if stage and pools:
                x = layers.pooling(o["downsampling"], (2, 2))(x)
            for index in range(o["blocks"]):
                stride = 2 if stage and index == 0 and o["downsampling"] == "stride" else 1
                x = block(
                    features,
                    o["kernel_size"],
                    stride,
                    2**stage if o["downsampling"] == "dilation" else 1,
                    o["connections"],
                    o["normalization"],
                    o["activation"],
                    train,
                    self.dtype,
                    name=f"stage{stage}_block{index}",
                )(x)
        x = layers.Flatten()(x) if o["hidden"] else layers.GlobalAveragePool()(x)
        for index, features in enumerate(o["hidden"]):
            x = layers.Dropout(o["dropout"], deterministic=not train)(x)
            x = layers.activation(o["activation"])(layers.Dense(features, dtype=self.dtype, name=f"hidden{index}")(x))
        x = layers.Dropout(o["dropout"], deterministic=not train)(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="output")(x))

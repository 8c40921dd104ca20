"""AlexNet (Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural networks").

As published, in two groups: what the paper spread over two GPUs are grouped convolutions in conv2, conv4 and conv5. With
1,000 classes and three channels it has 60,965,224 parameters. The paper's figure says 224x224 input; its sizes come out
with 227x227, as in the authors' code.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob


class Convolution(NamedTuple):
    """One of the five, with what follows it."""

    features: int
    kernel: int
    stride: int
    padding: int
    grouped: bool
    bias: float  # its first value: ones give the ReLUs positive inputs (section 5)
    normalized: bool
    pooled: bool


CONVOLUTIONS = {
    "1": Convolution(96, 11, 4, 0, grouped=False, bias=0.0, normalized=True, pooled=True),
    "2": Convolution(256, 5, 1, 2, grouped=True, bias=1.0, normalized=True, pooled=True),
    "3": Convolution(384, 3, 1, 1, grouped=False, bias=0.0, normalized=False, pooled=False),
    "4": Convolution(384, 3, 1, 1, grouped=True, bias=1.0, normalized=False, pooled=False),
    "5": Convolution(256, 3, 1, 1, grouped=True, bias=1.0, normalized=False, pooled=True),
}


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "alexnet"
    width: float = knob(1.0, "times the paper's 96, 256, 384, 384, 256 channels, in multiples of 2 x groups", above=0)
    hidden: int = knob(4096, "width of fc6 and fc7", low=1)
    groups: int = knob(2, "parts of conv2, conv4 and conv5 that see only their own channels; the paper: 2", low=1)
    normalization: str = knob(
        "local_response",
        "after conv1 and conv2; the paper: local_response",
        choices=("local_response", "batch", "none"),
    )
    dropout: float = knob(0.5, "probability, after fc6 and fc7", low=0, below=1)
    init_std: float = knob(
        0.01, "deviation of the first weights, and ones for half of the biases; 0: He et al. 2015", low=0
    )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return AlexNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, width=1 / 8, hidden=512, dropout=0.0, init_std=0.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (227, 227, 3)


def weights(options: Options, bias: float) -> dict:
    """First weights N(0, init_std) and biases of 0 or 1 (section 5), or He et al.'s with biases of 0."""
    if not options.init_std:
        return dict(kernel_init=layers.he_normal("fan_in"))
    return dict(kernel_init=nn.initializers.normal(options.init_std), bias_init=nn.initializers.constant(bias))


VARIANTS = {"alexnet": Options()}


class AlexNet(nn.Module):
    """conv1 ... conv5, fc6, fc7, fc8. Any input of at least 67x67; fc6 takes its width from it."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        x = x.astype(self.dtype)

        def stage(network: nn.Module, x: jax.Array, n: str) -> jax.Array:
            """A convolution and what follows it, layers of `network`, which Flax's remat wants to be the first argument."""
            c = CONVOLUTIONS[n]
            x = layers.Conv(
                max(1, round(c.features * o.width / (2 * o.groups))) * 2 * o.groups,
                (c.kernel, c.kernel),
                strides=c.stride,
                padding=c.padding,
                feature_group_count=o.groups if c.grouped else 1,
                dtype=self.dtype,
                name=f"conv{n}",
                **weights(o, c.bias),
            )(x)
            x = layers.ReLU(name=f"relu{n}")(x)
            if c.normalized and o.normalization == "local_response":
                x = layers.LocalResponseNorm(n=5, k=2.0, alpha=1e-4, beta=0.75, name=f"norm{n}")(x)
            elif c.normalized:
                x = layers.normalization(o.normalization, train, dtype=self.dtype)(x)
            return layers.MaxPool((3, 3), (2, 2), name=f"pool{n}")(x) if c.pooled else x

        stage = nn.remat(stage, static_argnums=(2,)) if self.remat else stage
        for n in CONVOLUTIONS:
            x = stage(self, x, n)
        x = layers.Flatten(name="flatten")(x)
        for n in ("6", "7"):
            x = layers.Dense(o.hidden, dtype=self.dtype, name=f"fc{n}", **weights(o, 1.0))(x)
            x = layers.ReLU(name=f"relu{n}")(x)
            x = layers.Dropout(o.dropout, deterministic=not train, name=f"drop{n}")(x)
        x = layers.Dense(self.num_classes, dtype=self.dtype, name="fc8", **weights(o, 0.0))(x)
        return layers.at_least_float32(x)

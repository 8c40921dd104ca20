"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", II.B).

As usual today: every map of C3 sees all six maps of S2, pooling has no weights, and the output layer is dense, which
makes 61,706 parameters for ten classes and one 32x32 channel. The paper's connection table, trainable pooling and
radial output units make 60,000.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.knobs import knob

CANVAS = 32  # pixels: the paper centres smaller pictures on a field of this side


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "lenet5"
    activation: str = knob("tanh", "non-linearity; the paper: tanh", choices=tuple(layers.ACTIVATIONS))
    pooling: str = knob("average", "2x2 pooling; the paper: average", choices=tuple(layers.POOLINGS))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (CANVAS, CANVAS, 1)

    def narrow(self) -> "Options":
        """It is narrow as it is."""
        return dataclasses.replace(self)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return LeNet5(num_classes, self.activation, self.pooling, dtype, remat)


class LeNet5(nn.Module):
    """C1 S2 C3 S4 C5 F6 and the output layer. Pictures under 32x32 are centred on a field of zeros of that size."""

    num_classes: int
    activation: str = "tanh"
    pooling: str = "average"
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` with H, W of at most 32 -> logits `[B, num_classes]` float32."""
        height, width = x.shape[1:3]
        if max(height, width) > CANVAS:
            raise UserError(
                f"LeNet-5 takes pictures of at most {CANVAS}x{CANVAS}, not {height}x{width}: set --config.input.size={CANVAS}."
            )
        margins = [((CANVAS - n) // 2, CANVAS - n - (CANVAS - n) // 2) for n in (height, width)]
        x = jnp.pad(x.astype(self.dtype), [(0, 0), *margins, (0, 0)])

        def stage(network: nn.Module, x: jax.Array, name: str, features: int) -> jax.Array:
            """Convolution, non-linearity, pooling: layers of `network`, which Flax's remat wants to be the first argument."""
            x = layers.Conv(features, (5, 5), padding="VALID", dtype=self.dtype, name=name)(x)
            x = layers.activation(self.activation)(x)
            return layers.pooling(self.pooling, (2, 2))(x)

        stage = nn.remat(stage, static_argnums=(2, 3)) if self.remat else stage
        for name, features in (("c1", 6), ("c3", 16)):
            x = stage(self, x, name, features)
        x = layers.Flatten()(x)
        for name, features in (("c5", 120), ("f6", 84)):
            x = layers.activation(self.activation)(layers.Dense(features, dtype=self.dtype, name=name)(x))
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="output")(x))

"""EfficientNet (Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks"): B0 of table
1, and B1 to B7, which multiply its width, depth and input (section 3.3; the multipliers are those of the authors' code).

Parameters with 1,000 classes: 5,288,548 / 7,794,184 / 9,109,994 / 12,233,232 / 19,341,616 / 30,389,784 / 43,040,704 /
66,347,960. Padding is symmetric, where the authors' is TensorFlow's 'SAME'. Branches are left out while training with a
probability that rises linearly with depth (Huang et al. 2016) from 0 to 0.2. Convolutions begin as N(0, 2 / fan out),
the last layer uniformly within 1 / sqrt(num_classes), as in the authors' code.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.knobs import knob
from cnnjax.models.mobilenet import InvertedResidual, channels, conv_norm

# Table 1: (expansion, side of the depthwise convolution, stride of the first block, channels, blocks) of each stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM, HEAD = 32, 1280  # channels
# (width, depth, side of the input, dropout)
SCALES = {
    "efficientnet_b0": (1.0, 1.0, 224, 0.2),
    "efficientnet_b1": (1.0, 1.1, 240, 0.2),
    "efficientnet_b2": (1.1, 1.2, 260, 0.3),
    "efficientnet_b3": (1.2, 1.4, 300, 0.3),
    "efficientnet_b4": (1.4, 1.8, 380, 0.4),
    "efficientnet_b5": (1.6, 2.2, 456, 0.4),
    "efficientnet_b6": (1.8, 2.6, 528, 0.5),
    "efficientnet_b7": (2.0, 3.1, 600, 0.5),
}


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "efficientnet_b0"
    width: float = knob(1.0, "multiplies the channels, which stay multiples of 8", above=0)
    depth: float = knob(1.0, "multiplies the blocks of each stage, rounded up", above=0)
    dropout: float = knob(0.2, "probability, before the last layer", low=0, below=1)
    stochastic_depth: float = knob(0.2, "probability that the last residual branch is left out", low=0, below=1)
    squeeze: float = knob(
        0.25, "channels that squeeze-and-excite goes through, as a part of a block's input; 0: none", low=0
    )
    norm_momentum: float = knob(0.99, "of BatchNorm's running statistics", low=0, below=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        side = SCALES[self.name][2]
        return (side, side, 3)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, width=1 / 8, depth=1 / 4)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return EfficientNet(
            num_classes,
            self.width,
            self.depth,
            self.dropout,
            self.stochastic_depth,
            self.squeeze,
            self.norm_momentum,
            dtype,
            remat,
        )


class EfficientNet(nn.Module):
    """The network of `Options`."""

    num_classes: int
    width: float
    depth: float
    dropout: float
    stochastic_depth: float
    squeeze: float
    norm_momentum: float
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        normalization = dict(momentum=self.norm_momentum, epsilon=1e-3)
        wide = lambda published: channels(published * self.width)
        conv = lambda name, x, features, side, **kwargs: layers.SiLU(name=f"{name}_activation")(
            conv_norm(name, x, features, side, train, self.dtype, normalization, **kwargs)
        )
        block = nn.remat(InvertedResidual) if self.remat else InvertedResidual
        repeats = [math.ceil(self.depth * stage[-1]) for stage in STAGES]
        x, done = conv("conv1", x.astype(self.dtype), wide(STEM), 3, strides=(2, 2)), 0
        for stage, ((expansion, side, stride, published, _), blocks) in enumerate(zip(STAGES, repeats), 1):
            for index in range(blocks):
                x = block(
                    wide(published),
                    side=side,
                    stride=1 if index else stride,
                    expansion=expansion,
                    activation="silu",
                    squeeze=max(1, int(x.shape[-1] * self.squeeze)) if self.squeeze else 0,
                    drop_rate=self.stochastic_depth * done / sum(repeats),
                    normalization=normalization,
                    train=train,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
                done += 1
        x = conv("conv2", x, wide(HEAD), 1)
        x = layers.GlobalAveragePool(name="pool_last")(x)
        x = layers.Dropout(self.dropout, deterministic=not train)(x)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        x = layers.Dense(self.num_classes, kernel_init=uniform, dtype=self.dtype, name="fc")(x)
        return layers.at_least_float32(x)


VARIANTS = {name: Options(name, width, depth, dropout) for name, (width, depth, _, dropout) in SCALES.items()}

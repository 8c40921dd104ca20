"""U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", figure 1).

The same-size form that is usual today: 3x3 convolutions padded with zeros, so that the logits `[B, H, W, num_classes]`
are as large as the picture, whose sides `2^depth` divides. Down by 2x2 max pooling, up by a 2x2 transposed convolution
with stride 2, skip connections concatenated.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import DoesNotFit
from cnnjax.knobs import knob


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "unet"
    base: int = knob(64, "channels of the first level; each level below has twice as many", low=1)
    depth: int = knob(4, "how often the resolution is halved", low=1, high=8)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return UNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, base=self.base // 8, depth=2)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (512, 512, 1)


VARIANTS = {"unet": Options(), "unet16": Options("unet16", base=16)}


class Level(nn.Module):
    """Two 3x3 convolutions with ReLU. `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for n in ("1", "2"):
            x = layers.Conv(
                self.features, (3, 3), padding=1, kernel_init=layers.he_normal(), dtype=self.dtype, name=f"conv{n}"
            )(x)
            x = layers.ReLU(name=f"relu{n}")(x)
        return x


class UNet(nn.Module):
    """Levels down, the bottom, levels up, and a 1x1 convolution to the classes."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]`, H and W divisible by 2^depth -> logits `[B, H, W, num_classes]` float32."""
        base, depth = self.options.base, self.options.depth
        step = 2**depth
        if any(n % step or n == 0 for n in x.shape[1:-1]):
            raise DoesNotFit(
                f"{depth} levels down, a U-Net takes pictures whose sides {step} divides, not {x.shape[1:-1]}."
            )
        level = nn.remat(Level) if self.remat else Level
        x, skips = x.astype(self.dtype), []
        for n in range(depth):
            x = level(base * 2**n, self.dtype, name=f"down{n + 1}")(x)
            skips.append(x)
            x = layers.MaxPool((2, 2), name=f"pool{n + 1}")(x)
        x = level(base * 2**depth, self.dtype, name="bottom")(x)
        for n in reversed(range(depth)):
            x = layers.ConvTranspose(base * 2**n, (2, 2), strides=2, dtype=self.dtype, name=f"up{n + 1}")(x)
            x = jnp.concatenate([skips[n], x], -1)
            x = level(base * 2**n, self.dtype, name=f"merge{n + 1}")(x)
        return layers.at_least_float32(layers.Conv(self.num_classes, (1, 1), dtype=self.dtype, name="classes")(x))

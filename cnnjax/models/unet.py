"""U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", figure 1).

Levels go down, each with twice the channels and half the resolution, and up again beside what was there on the way down.
The paper's own (`unet_valid`) pads nothing: from 572 pixels a side come 388, and what goes across is cropped. Usual today
is the same-size form: 3x3 convolutions padded with zeros, logits as large as the picture, whose sides `2^depth` divides.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import DoesNotFit, UserError
from cnnjax.knobs import knob


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "unet"
    base: int = knob(64, "channels of the first level; each level below has twice as many", low=1)
    depth: int = knob(4, "how often the resolution is halved", low=1, high=8)
    padding: str = knob(
        "same",
        "of convolutions: with zeros, or none (valid): then the logits are of the picture's middle",
        choices=("same", "valid"),
    )
    normalization: str = knob("none", "after each convolution", choices=layers.NORMALIZATIONS)
    dropout: float = knob(0.0, "probability, at the end of the way down (paper: 0.5)", low=0, below=1)
    down: str = knob(
        "max", "halves the resolution: 2x2 pooling, or a 2x2 convolution", choices=("max", "average", "stride")
    )
    up: str = knob(
        "transpose",
        "doubles it: a 2x2 transposed convolution, or linear interpolation and a 2x2 convolution",
        choices=("transpose", "interpolate"),
    )
    skip: str = knob(
        "concatenate", "what becomes of the activations that go across", choices=("concatenate", "add", "none")
    )
    axes: int = knob(2, "of pictures; of volumes [B, H, W, D, C] 3", low=2, high=3)

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        if self.normalization == "group" and self.base % layers.GROUP_SIZE:
            raise UserError(
                f"config.model.base={self.base} must be a multiple of {layers.GROUP_SIZE} for normalization=group."
            )
        return UNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        return dataclasses.replace(self, base=max(1, self.base // 8), depth=2)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The paper's 572 pixels a side or the usual 512, of volumes 92 or 64; deeper networks need more."""
        side = {2: (512, 572), 3: (64, 92)}[self.axes][self.padding == "valid"]
        return (self.fitting_sides(side)[0],) * self.axes + (1,)

    @property
    def stride(self) -> int:
        """The total stride: a shift of the picture by it shifts the logits, and sides that fit differ by multiples of it."""
        return 2**self.depth

    def output_side(self, side: int) -> int | None:
        """How many logits a side of a picture gives; None where it does not fit."""
        lost = 0 if self.padding == "same" else 4
        for _ in range(self.depth):
            side -= lost
            if side < 2 or side % 2:
                return None
            side //= 2
        side -= lost
        for _ in range(self.depth):
            side = 2 * side - lost
        return side if side > 0 else None

    def fitting_sides(self, near: int) -> list[int]:
        """The sides next to a number that fit, at most two."""
        sides = [n for n in range(max(1, near - self.stride), near + 13 * self.stride) if self.output_side(n)]
        below, above = [n for n in sides if n <= near][-1:], [n for n in sides if n > near][:1]
        return below + above


VARIANTS = {
    "unet": Options(),
    "unet16": Options("unet16", base=16),
    "unet_valid": Options("unet_valid", padding="valid", dropout=0.5),
}


class Level(nn.Module):
    """Two 3x3 convolutions with ReLU. `[B, *spatial, C]` -> `[B, *spatial, features]`, 4 less a side without padding."""

    features: int
    options: Options
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        o = self.options
        for n in ("1", "2"):
            x = layers.Conv(
                self.features,
                (3,) * o.axes,
                padding=1 if o.padding == "same" else 0,
                use_bias=o.normalization == "none",
                kernel_init=layers.he_normal(),
                dtype=self.dtype,
                name=f"conv{n}",
            )(x)
            x = layers.normalization(o.normalization, self.train, dtype=self.dtype)(x)
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
        """`[B, *spatial, C]` -> logits `[B, *output_side, num_classes]` float32."""
        o = self.options
        self._check(x.shape)
        two = (2,) * o.axes

        def level(x: jax.Array, features: int, name: str) -> jax.Array:
            module = nn.remat(Level) if self.remat else Level
            return module(features, o, train, self.dtype, name=name)(x)

        x, skips = x.astype(self.dtype), []
        for n in range(o.depth):
            x = level(x, o.base * 2**n, f"down{n + 1}")
            skips.append(x)
            if o.down == "stride":
                x = layers.Conv(o.base * 2**n, two, strides=two, padding=0, dtype=self.dtype, name=f"pool{n + 1}")(x)
            else:
                x = layers.POOLINGS[o.down](two, name=f"pool{n + 1}")(x)
        x = level(x, o.base * 2**o.depth, "bottom")
        x = layers.Dropout(o.dropout, deterministic=not train, name="dropout")(x) if o.dropout else x
        for n in reversed(range(o.depth)):
            x = self._up(x, o.base * 2**n, f"up{n + 1}")
            if o.skip != "none":
                across = skips[n]
                if across.shape[1:-1] != x.shape[1:-1]:
                    across = layers.CentreCrop(x.shape[1:-1], name=f"crop{n + 1}")(across)
                x = jnp.concatenate([across, x], -1) if o.skip == "concatenate" else across + x
            x = level(x, o.base * 2**n, f"merge{n + 1}")
        classes = layers.Conv(self.num_classes, (1,) * o.axes, dtype=self.dtype, name="classes")
        return layers.at_least_float32(classes(x))

    @nn.nowrap
    def _up(self, x: jax.Array, features: int, name: str) -> jax.Array:
        """Twice the resolution. The paper's text: "an upsampling of the feature map followed by a 2x2 convolution"."""
        two = (2,) * self.options.axes
        if self.options.up == "transpose":
            return layers.ConvTranspose(features, two, strides=two, dtype=self.dtype, name=name)(x)
        up = layers.InterpolateConv(features, two, method="linear", padding_mode="edge", dtype=self.dtype, name=name)
        return up(x)

    @nn.nowrap
    def _check(self, shape: tuple[int, ...]) -> None:
        """Raises DoesNotFit where pictures have other axes or sides than this network takes."""
        o, sizes = self.options, shape[1:-1]
        if len(sizes) != o.axes:
            raise DoesNotFit(
                f"A U-Net with config.model.axes={o.axes} takes {o.axes} axes of pixels, not {len(sizes)}."
            )
        for side in sizes:
            if not o.output_side(side):
                fitting = " or ".join(map(str, o.fitting_sides(side)))
                raise DoesNotFit(
                    f"A U-Net of {o.depth} levels{' without padding' if o.padding == 'valid' else ''} takes sides such as "
                    f"{fitting}, not {side}."
                )

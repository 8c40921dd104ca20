"""Residual networks: one network, whose knobs make the published ones.

- resnet18 ... resnet152: He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", table 1. The stride
  of a bottleneck is in its 3x3 convolution ("v1.5", as in Goyal et al. 2017); stride_in=1x1 is the paper's own place.
  11,689,512 / 21,797,672 / 25,557,032 / 44,549,160 / 60,192,808 parameters for 18 / 34 / 50 / 101 / 152 layers.
- resnet18v2 ... resnet152v2: He et al. 2016, "Identity mappings in deep residual networks": normalisation and ReLU
  stand before each convolution, and nothing on the shortcut (figure 1b; the ends of the network as in its appendix).
- wide_resnet50_2, wide_resnet101_2: Zagoruyko & Komodakis 2016, "Wide residual networks", table 8: the 3x3
  convolutions of the bottlenecks are twice as wide. 68,883,240 and 126,886,696 parameters.
- resnext50_32x4d, resnext101_32x8d: Xie et al. 2017, "Aggregated residual transformations for deep neural networks",
  form (c) of figure 3, a grouped 3x3 convolution. 25,028,904 and 88,791,336 parameters.
- resnet20_cifar, resnet56_cifar: He et al. 2015, section 4.2, with parameter-free shortcuts (option A). 269,722 and
  853,018 parameters with ten classes.
- wrn28_10: Zagoruyko & Komodakis 2016, table 1, with pre-activation. 36,479,194 parameters with ten classes.

With shortcut=none each is the plain network of as many layers, to compare with (He et al. 2015, section 4.2).

Convolutions begin as in He et al. 2015, "Delving deep into rectifiers" (fan out); the last layer from N(0, 0.01) as in
Goyal et al. 2017, "Accurate, large minibatch SGD", 5.1.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.knobs import knob

EXPANSION = dict(basic=1, bottleneck=4)  # channels that a block puts out, as a multiple of its stage's width
CIFAR = "3x3"


@dataclasses.dataclass(slots=True)
class Options:
    name: str = "resnet50"
    blocks: tuple[int, ...] = knob((3, 4, 6, 3), "residual blocks of each stage", low=1)
    block: str = knob("bottleneck", "3x3 3x3 (basic), or 1x1 3x3 1x1 (bottleneck)", choices=tuple(EXPANSION))
    width: int = knob(
        64, "channels of the first stage, doubled in each further one; a bottleneck puts out four times as many", low=1
    )
    widening: float = knob(1.0, "channels inside a bottleneck, as a multiple of its stage's width", above=0)
    groups: int = knob(1, "of the 3x3 convolution of a bottleneck; ResNeXt: 32", low=1)
    stem: str = knob("7x7", "7x7 of stride 2 and max pooling, or 3x3 for small pictures", choices=("7x7", CIFAR))
    stem_width: int = knob(64, "channels of the first convolution", low=1)
    pre_activation: bool = knob(False, "normalisation and ReLU before each convolution instead of after it (v2)")
    stride_in: str = knob("3x3", "the convolution of a bottleneck that has its stride", choices=("3x3", "1x1"))
    shortcut: str = knob(
        "projection",
        "where shapes change: 1x1 convolution (option B), or every other pixel and channels of zeros (option A); none: a "
        "plain network, without any",
        choices=("projection", "padding", "none"),
    )
    zero_init_residual: bool = knob(False, "residual branches begin as zeros, by their last scales (v2: last kernels)")
    dropout: float = knob(0.0, "probability, before the last convolution of each block", low=0, below=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (32, 32, 3) if self.stem == CIFAR else (224, 224, 3)

    def narrow(self) -> "Options":
        return dataclasses.replace(
            self,
            blocks=(1,) * len(self.blocks),
            width=max(4, self.width // 8),
            stem_width=max(4, self.stem_width // 8),
            groups=max(1, self.groups // 8),
        )

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        if self.shortcut == "none" and self.zero_init_residual:
            raise UserError(
                "config.model.zero_init_residual needs shortcuts: without them only zeros would get through."
            )
        if self.block == "bottleneck" and round(self.width * self.widening) < 1:
            raise UserError(
                f"config.model.widening={self.widening} leaves no channel inside the first stage's bottlenecks."
            )
        if self.block == "basic" and self.groups != 1:
            raise UserError("config.model.groups is for bottlenecks: take config.model.block=bottleneck, or 1 group.")
        if self.block == "bottleneck" and round(self.width * self.widening) % self.groups:
            raise UserError(
                f"config.model.groups={self.groups} does not divide the {round(self.width * self.widening)} channels "
                "inside the first stage's bottlenecks (config.model.width times config.model.widening)."
            )
        return ResNet(num_classes, {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}, dtype, remat)


class Block(nn.Module):
    """A residual block. `[B, H, W, C]` -> `[B, H/stride, W/stride, features]`, halves rounded up."""

    convolutions: tuple[tuple[int, int, int, int], ...]  # (features, side, stride, groups) of each
    pre_activation: bool
    activated: bool  # the input comes normalised and activated: the first block of a pre-activation network
    shortcut: str
    zero_init_residual: bool
    dropout: float
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = len(self.convolutions)
        y = x
        for index, (features, side, stride, groups) in enumerate(self.convolutions, 1):
            if self.pre_activation and not (index == 1 and self.activated):
                y = layers.ReLU(name=f"relu{index}")(self.norm(f"norm{index}", y))
            if index == 1 and self.shortcut != "none":
                shortcut = self.shortened(x, y)
            if index == last:
                y = layers.Dropout(self.dropout, deterministic=not self.train)(y)
            zero = self.zero_init_residual and index == last
            y = self.conv(f"conv{index}", y, features, side, stride, groups, zero and self.pre_activation)
            if not self.pre_activation:
                y = self.norm(f"norm{index}", y, zero)
                if index < last:
                    y = layers.ReLU(name=f"relu{index}")(y)
        if self.shortcut != "none":
            y = y + shortcut
        return y if self.pre_activation else layers.ReLU(name=f"relu{last}")(y)

    def conv(self, name: str, x: jax.Array, features: int, side: int, stride: int, groups: int = 1, zero: bool = False):
        return layers.Conv(
            features,
            (side, side),
            strides=(stride, stride),
            padding=side // 2,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=nn.initializers.zeros if zero else layers.he_normal(),
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, name: str, x: jax.Array, zero: bool = False) -> jax.Array:
        scale = nn.initializers.zeros if zero else nn.initializers.ones
        return layers.BatchNorm(scale_init=scale, dtype=self.dtype, name=name)(x, use_running_average=not self.train)

    def shortened(self, x: jax.Array, activated: jax.Array) -> jax.Array:
        """The shortcut: x itself, or brought to the block's output shape. Projections of v2 see the activated input."""
        features, stride = self.convolutions[-1][0], max(c[2] for c in self.convolutions)
        if x.shape[-1] == features and stride == 1:
            return x
        if self.shortcut == "padding":
            x = layers.AveragePool((1, 1), (stride, stride), name="shortcut")(x)
            missing = features - x.shape[-1]
            if missing < 0:
                raise UserError(
                    f"config.model.shortcut=padding only adds channels: {x.shape[-1]} arrive where {features} are wanted. "
                    "Lower config.model.stem_width, or take config.model.shortcut=projection."
                )
            return jnp.pad(x, [(0, 0)] * 3 + [(missing // 2, missing - missing // 2)])
        x = self.conv("shortcut", activated, features, 1, stride)
        return x if self.pre_activation else self.norm("shortcut_norm", x)


class ResNet(nn.Module):
    """The network of `Options`, held as a dict."""

    num_classes: int
    options: dict
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        norm = lambda name, x: layers.BatchNorm(dtype=self.dtype, name=name)(x, use_running_average=not train)
        side, stride = (3, 1) if o["stem"] == CIFAR else (7, 2)
        x = layers.Conv(
            o["stem_width"],
            (side, side),
            strides=(stride, stride),
            padding=side // 2,
            use_bias=False,
            kernel_init=layers.he_normal(),
            dtype=self.dtype,
            name="conv1",
        )(x.astype(self.dtype))
        x = layers.ReLU(name="relu1")(norm("norm1", x))
        if o["stem"] != CIFAR:
            x = layers.MaxPool((3, 3), (2, 2), padding=1, name="pool1")(x)

        block = nn.remat(Block) if self.remat else Block
        for stage, blocks in enumerate(o["blocks"]):
            for index in range(blocks):
                x = block(
                    self.convolutions(o["width"] * 2**stage, 2 if stage and index == 0 else 1),
                    o["pre_activation"],
                    activated=stage == index == 0,
                    shortcut=o["shortcut"],
                    zero_init_residual=o["zero_init_residual"],
                    dropout=o["dropout"],
                    train=train,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)
        if o["pre_activation"]:
            x = layers.ReLU(name="relu_last")(norm("norm_last", x))
        x = layers.GlobalAveragePool(name="pool_last")(x)
        x = layers.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name="fc")(x)
        return layers.at_least_float32(x)

    def convolutions(self, width: int, stride: int) -> tuple[tuple[int, int, int, int], ...]:
        """(features, side, stride, groups) of the convolutions of a block."""
        if self.options["block"] == "basic":
            return (width, 3, stride, 1), (width, 3, 1, 1)
        inner = round(width * self.options["widening"])
        first, second = (stride, 1) if self.options["stride_in"] == "1x1" else (1, stride)
        return (
            (inner, 1, first, 1),
            (inner, 3, second, self.options["groups"]),
            (width * EXPANSION["bottleneck"], 1, 1, 1),
        )


DEPTHS = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
    152: ((3, 8, 36, 3), "bottleneck"),
}
CIFAR_PARTS = dict(block="basic", stem=CIFAR, stem_width=16)


def _variant(name: str, depth: int, **changes) -> Options:
    return Options(name, *DEPTHS[depth], **changes)


_ALL = (
    *(_variant(f"resnet{depth}", depth) for depth in DEPTHS),
    *(_variant(f"resnet{depth}v2", depth, pre_activation=True) for depth in DEPTHS),
    *(_variant(f"wide_resnet{depth}_2", depth, widening=2.0) for depth in (50, 101)),
    _variant("resnext50_32x4d", 50, widening=2.0, groups=32),
    _variant("resnext101_32x8d", 101, widening=4.0, groups=32),
    Options("resnet20_cifar", (3, 3, 3), width=16, shortcut="padding", **CIFAR_PARTS),
    Options("resnet56_cifar", (9, 9, 9), width=16, shortcut="padding", **CIFAR_PARTS),
    Options("wrn28_10", (4, 4, 4), width=160, pre_activation=True, **CIFAR_PARTS),
)
VARIANTS = {variant.name: variant for variant in _ALL}

"""Residual networks.

- ResNet-18/34/50/101/152 (He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", table 1). Version 1
  has the stride of a bottleneck in its first 1x1 convolution, as in the paper; 1.5, the default and usual today, in the
  3x3 (Goyal et al. 2017). 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808 parameters.
- Version 2 (He et al. 2016, "Identity mappings in deep residual networks"): normalisation and ReLU before convolutions.
- ResNeXt (Xie et al. 2017): grouped 3x3 convolutions; 50 32x4d has 25,028,904, 101 32x8d 88,791,336 parameters.
- Wide ResNet (Zagoruyko & Komodakis 2016): wider 3x3 convolutions; 50-2 has 68,883,240, 101-2 126,886,696 parameters.
- For 32x32 pictures: ResNet-20 and -56 (He et al. 2015, section 4.2, with shortcuts without parameters, "option A";
  269,722 and 853,018 with 10 classes) and WRN-28-10 (version 2; 36,479,194).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.knobs import knob


@dataclasses.dataclass(slots=True, unsafe_hash=True)
class Options:
    name: str = "resnet50"
    stage_sizes: tuple[int, ...] = knob((3, 4, 6, 3), "blocks of each stage", low=1)
    block: str = knob("bottleneck", "two 3x3 convolutions, or 1x1, 3x3, 1x1", choices=("basic", "bottleneck"))
    version: str = knob(
        "1.5", "stride of a bottleneck in its 1x1 (1) or 3x3 (1.5); 2: normalise first", choices=("1", "1.5", "2")
    )
    width: int = knob(
        64, "channels of the first stage (of its 3x3 convolutions); each later one has twice as many", low=1
    )
    inner_width: float = knob(1.0, "bottleneck: times that, in the 3x3 convolution (WRN-50-2: 2)", above=0)
    groups: int = knob(1, "bottleneck: of the 3x3 convolution (ResNeXt: 32)", low=1)
    stem: str = knob("imagenet", "7x7 at stride 2 and pooling, or cifar: 3x3", choices=("imagenet", "cifar"))
    stem_width: int = knob(64, "channels of the first convolution", low=1)
    shortcut: str = knob(
        "projection", "where the shape changes: 1x1 convolution, or every second position and zeros (option A)",
        choices=("projection", "pad"),
    )  # fmt: skip
    zero_init: bool = knob(False, "blocks start as identities: the last scale of each is 0 (Goyal et al. 2017)")

    def build(self, num_classes: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        inner = round(self.width * self.inner_width)
        if self.block == "bottleneck" and inner % self.groups:
            raise UserError(
                f"config.model.groups={self.groups} does not divide the {inner} channels of the first stage."
            )
        return ResNet(num_classes, dataclasses.replace(self), dtype, remat)

    def narrow(self) -> "Options":
        shrunk = dict(width=max(2, self.width // 8), stem_width=max(2, self.stem_width // 8))
        return dataclasses.replace(
            self, stage_sizes=(1,) * len(self.stage_sizes), groups=max(1, self.groups // 8), **shrunk
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3) if self.stem == "imagenet" else (32, 32, 3)


SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_kind = lambda depth: "basic" if depth < 50 else "bottleneck"
_cifar = dict(block="basic", stem="cifar", stem_width=16)
VARIANTS = {
    options.name: options
    for options in (
        *(Options(f"resnet{depth}", sizes, _kind(depth)) for depth, sizes in SIZES.items()),
        *(Options(f"resnet{depth}v2", sizes, _kind(depth), version="2") for depth, sizes in SIZES.items()),
        Options("wide_resnet50_2", SIZES[50], inner_width=2.0),
        Options("wide_resnet101_2", SIZES[101], inner_width=2.0),
        Options("resnext50_32x4d", SIZES[50], inner_width=2.0, groups=32),
        Options("resnext101_32x8d", SIZES[101], inner_width=4.0, groups=32),
        Options("resnet20_cifar", (3, 3, 3), width=16, shortcut="pad", **_cifar),
        Options("resnet56_cifar", (9, 9, 9), width=16, shortcut="pad", **_cifar),
        Options("wrn28_10_cifar", (4, 4, 4), width=160, version="2", **_cifar),
    )
}


class Block(nn.Module):
    """x plus two or three convolutions of it. `[B, H, W, C]` -> `[B, H / stride, W / stride, features]`."""

    width: int
    features: int
    stride: int
    options: Options
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        o = self.options
        shortcut, before = x, o.version == "2"
        if before:
            x = self.activated(x, 1)
            shortcut = x if self.changes(shortcut) and o.shortcut == "projection" else shortcut
        if self.changes(shortcut):
            shortcut = self.projected(shortcut) if o.shortcut == "projection" else self.padded(shortcut)
        convolutions = self.convolutions()
        for n, (features, kernel, stride, groups) in enumerate(convolutions, 1):
            if before and n > 1:
                x = self.activated(x, n)
            x = self.convolution(features, kernel, stride, groups, f"conv{n}")(x)
            if not before and n < len(convolutions):
                x = self.activated(x, n)
        if before:
            return x + shortcut
        last = nn.initializers.zeros if o.zero_init else nn.initializers.ones
        return layers.ReLU(name="relu")(self.normalized(x, f"norm{len(convolutions)}", last) + shortcut)

    def convolutions(self) -> list[tuple[int, int, int, int]]:
        """(features, kernel, stride, groups) of each."""
        if self.options.block == "basic":
            return [(self.width, 3, self.stride, 1), (self.width, 3, 1, 1)]
        first, second = (self.stride, 1) if self.options.version == "1" else (1, self.stride)
        inner = round(self.width * self.options.inner_width)
        return [(inner, 1, first, 1), (inner, 3, second, self.options.groups), (self.features, 1, 1, 1)]

    def convolution(self, features: int, kernel: int, stride: int, groups: int, name: str) -> nn.Module:
        return layers.Conv(features, (kernel, kernel), strides=stride, padding=kernel // 2, feature_group_count=groups,
                           use_bias=False, kernel_init=layers.he_normal(), dtype=self.dtype, name=name)  # fmt: skip

    def normalized(self, x: jax.Array, name: str, scale_init=nn.initializers.ones) -> jax.Array:
        return layers.BatchNorm(dtype=self.dtype, scale_init=scale_init, name=name)(
            x, use_running_average=not self.train
        )

    def activated(self, x: jax.Array, n: int) -> jax.Array:
        return layers.ReLU(name=f"relu{n}")(self.normalized(x, f"norm{n}"))

    def changes(self, x: jax.Array) -> bool:
        return self.stride > 1 or x.shape[-1] != self.features

    def projected(self, x: jax.Array) -> jax.Array:
        x = self.convolution(self.features, 1, self.stride, 1, "shortcut")(x)
        return x if self.options.version == "2" else self.normalized(x, "shortcut_norm")

    def padded(self, x: jax.Array) -> jax.Array:
        more = self.features - x.shape[-1]
        return jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(more // 2, more - more // 2)])


class ResNet(nn.Module):
    """Stem, stages of blocks, and a linear layer on the mean over positions."""

    num_classes: int
    options: Options
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> logits `[B, num_classes]` float32."""
        o = self.options
        large, block = o.stem == "imagenet", nn.remat(Block) if self.remat else Block
        norm = lambda x: layers.BatchNorm(dtype=self.dtype, name="norm1")(x, use_running_average=not train)
        x = layers.Conv(o.stem_width, (7, 7) if large else (3, 3), strides=2 if large else 1, padding=3 if large else 1,
                        use_bias=False, kernel_init=layers.he_normal(), dtype=self.dtype, name="conv1")(x.astype(self.dtype))  # fmt: skip
        if o.version != "2":
            x = layers.ReLU(name="relu1")(norm(x))
        if large:
            x = layers.MaxPool((3, 3), (2, 2), padding=1, name="pool1")(x)
        for stage, size in enumerate(o.stage_sizes):
            width = o.width * 2**stage
            features = width * (4 if o.block == "bottleneck" else 1)
            for index in range(size):
                stride = 2 if stage and index == 0 else 1
                x = block(width, features, stride, o, train, self.dtype, name=f"stage{stage + 1}_block{index + 1}")(x)
        if o.version == "2":
            x = layers.ReLU(name="relu1")(norm(x))
        x = layers.GlobalAveragePool(name="mean")(x)
        return layers.at_least_float32(layers.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))

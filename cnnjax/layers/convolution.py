"""Convolutions over all input channels with weights shared by all positions, and their relatives."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels
from cnnjax.layers.upsampling import Upsample
from cnnjax.layers.window import Padding, check_fits, explicit_padding, per_axis

# What stands beyond the border: zeros; the nearest pixel of the edge; the picture mirrored without its edge pixel.
PADDING_MODES = dict(zeros="constant", edge="edge", reflect="reflect")


class Conv(nn.Module):
    """Convolution of `[B, *spatial, C]` in one, two or three dimensions, by the length of `kernel_size`.

    Parameters as `flax.linen.Conv`: `kernel` `[*kernel_size, C / feature_group_count, features]` and `bias`. `padding` is
    'SAME', 'VALID', 'CIRCULAR' (the picture goes on at its other side), 'CAUSAL' (one dimension: all of it before), a
    number, or a number or pair an axis. `padding_mode` says what it is made of: 'zeros', 'edge' (replicated) or 'reflect'.

    Raises:
      DoesNotFit: the kernel finds no position on the input.
      ValueError: an unknown padding mode, or a reflection wider than the input.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = None
    feature_group_count: int = 1
    use_bias: bool = True
    padding_mode: str = "zeros"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = nn.linear.default_kernel_init
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"There is no padding mode {self.padding_mode!r}: one of {', '.join(PADDING_MODES)}.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = per_axis(self.kernel_size, 1)
        strides, dilation = (per_axis(v, len(size)) for v in (self.strides, self.kernel_dilation))
        window = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
        mode, pads = self._padding(x.shape[1:-1], window, strides)
        check_fits(self, x.shape[1:-1], window, pads)
        shape = (*size, x.shape[-1] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if mode != "constant":
            x, pads = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode=mode), [(0, 0)] * len(size)
        y = kernels.convolution(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=kernels.channels_last(len(size)),
            feature_group_count=self.feature_group_count,
            precision=self.precision,
        )
        return y if bias is None else kernels.add_bias(y, bias)

    @nn.nowrap
    def _padding(self, sizes, window, strides):
        """(what it is made of, as `jax.numpy.pad` names it; (before, after) for each axis)."""
        if self.padding == "CIRCULAR":
            return "wrap", tuple(((w - 1) // 2, w // 2) for w in window)
        if self.padding == "CAUSAL":
            if len(window) != 1:
                raise ValueError("Only a convolution over one axis can be causal.")
            return "constant", ((window[0] - 1, 0),)
        pads, mode = explicit_padding(self.padding, sizes, window, strides), PADDING_MODES[self.padding_mode]
        if mode == "reflect" and any(max(p) >= n for p, n in zip(pads, sizes)):
            raise ValueError(
                f"A reflection of {max(map(max, pads))} positions needs more than as many, not {min(sizes)}."
            )
        return mode, pads


class ConvTranspose(nn.Module):
    """Transposed convolution, `[B, *spatial, C]` -> `[B, *(spatial * strides), features]` with padding 'SAME'.

    Zeiler et al. 2010; the "up-convolution" of Ronneberger et al. 2015. Parameters as `flax.linen.ConvTranspose`:
    `kernel` `[*kernel_size, C, features]`, or with `transpose_kernel` that of the convolution whose transpose this is,
    `[*kernel_size, features, C]`; and `bias`. `padding` is 'SAME', 'VALID', or pairs of the transposed convolution itself.
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] | int | None = None
    padding: Any = "SAME"
    kernel_dilation: Sequence[int] | int | None = None
    use_bias: bool = True
    transpose_kernel: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = nn.linear.default_kernel_init
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = per_axis(self.kernel_size, 1)
        strides, dilation = (per_axis(v or 1, len(size)) for v in (self.strides, self.kernel_dilation))
        channels = (self.features, x.shape[-1]) if self.transpose_kernel else (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, (*size, *channels), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.transpose_kernel:
            kernel = jnp.flip(kernel, range(len(size))).swapaxes(-1, -2)
        padding = nn.linear.canonicalize_padding(self.padding, len(size))
        y = kernels.conv_transpose(x, kernel, strides, padding, rhs_dilation=dilation, precision=self.precision)
        return y if bias is None else kernels.add_bias(y, bias)


class LocallyConnected(nn.Module):
    """A convolution whose weights are not shared: each position has its own (LeCun 1989; Taigman et al. 2014).

    `[B, *spatial, C]` -> `[B, *positions, features]`; padding, strides and dilation as of `Conv`. Parameters as
    `flax.linen.ConvLocal`: `kernel` `[*positions, C * window, features]`, channels slowest, and `bias`
    `[*positions, features]`. They begin as those of a convolution: by default each position counts its own inputs only.

    Raises:
      DoesNotFit: the kernel finds no position on the input.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = None
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = None
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, sizes = per_axis(self.kernel_size, 1), x.shape[1:-1]
        strides, dilation = (per_axis(v, len(size)) for v in (self.strides, self.kernel_dilation))
        window = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
        pads = explicit_padding(self.padding, sizes, window, strides)
        check_fits(self, sizes, window, pads)
        positions = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in zip(sizes, pads, window, strides))
        axes = tuple(range(len(size)))
        init = self.kernel_init or nn.initializers.lecun_normal(batch_axis=axes)
        shape = (*positions, x.shape[-1] * math.prod(size), self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        own = (*positions, self.features)
        bias = self.param("bias", self.bias_init, own, self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
        taps = [
            x[(slice(None), *(slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, positions, strides)))]
            for tap in itertools.product(*(range(0, w, d) for w, d in zip(window, dilation)))
        ]
        seen = jnp.stack(taps, -1).reshape(x.shape[0], *positions, -1)
        contracted = (len(size) + 1,), (len(size),)
        each = tuple(axis + 1 for axis in axes), axes  # [*positions, B, features]
        y = kernels.dense(seen, kernel, (contracted, each), precision=self.precision)
        y = jnp.moveaxis(y, len(size), 0)
        return y if bias is None else y + bias[None]


class InterpolateConv(nn.Module):
    """Enlarges by `scale`, then convolves: the up-sampling without checkerboard patterns (Odena et al. 2016, Distill).

    `[B, *spatial, C]` -> `[B, *(spatial * scale), features]`.
    """

    features: int
    kernel_size: Sequence[int]
    scale: int = 2
    method: str = "nearest"  # or 'linear', as jax.image.resize
    padding: Any = "SAME"
    padding_mode: str = "zeros"
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Upsample(self.scale, self.method, name="upsample")(x)
        return Conv(
            self.features,
            tuple(self.kernel_size),
            padding=self.padding,
            padding_mode=self.padding_mode,
            use_bias=self.use_bias,
            dtype=self.dtype,
        )(x)


def he_normal(mode: str = "fan_out"):
    """N(0, 2 / fan): keeps the variance of gradients (fan_out) or activations (fan_in) through ReLUs (He et al. 2015)."""
    return nn.initializers.variance_scaling(2.0, mode, "normal")

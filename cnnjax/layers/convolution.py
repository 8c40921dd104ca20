"""Convolutions over all input channels with weights shared by all positions, and their relatives."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import kernels
from cnnjax.layers.window import check_fits, explicit_padding, per_axis

# What stands beyond the border: zeros; the nearest pixel of the edge; the picture mirrored without its edge pixel.
PADDING_MODES = dict(zeros="constant", edge="edge", reflect="reflect")


class Conv(nn.Conv):
    """Convolution of `[B, *spatial, C]` in one, two or three dimensions, by the length of `kernel_size`.

    As `flax.linen.Conv` (strides, padding 'SAME', 'VALID', a number or pairs; kernel_dilation; feature_group_count;
    use_bias), and `padding_mode` says what the padding is made of: 'zeros', 'edge' (replicated) or 'reflect'.

    Raises:
      DoesNotFit: the kernel finds no position on the input.
      ValueError: an unknown padding mode, or a reflection wider than the input.
    """

    padding_mode: str = "zeros"

    def __post_init__(self):
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"There is no padding mode {self.padding_mode!r}: one of {', '.join(PADDING_MODES)}.")
        if self.conv_general_dilated is None:
            padded = partial(_convolution_of_padded, mode=PADDING_MODES[self.padding_mode])
            self.conv_general_dilated = kernels.convolution if self.padding_mode == "zeros" else padded
        super().__post_init__()

    @nn.nowrap  # else Flax takes this and Flax's own for two calls
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.padding not in ("CIRCULAR", "REFLECT", "CAUSAL"):
            check_fits(self, *_geometry(self, x))
        return super().__call__(x)


def _geometry(conv: nn.Conv, x: jax.Array):
    """(sizes, window, padding) of a convolution, dilations reckoned in."""
    axes = len(per_axis(conv.kernel_size, 1))
    sizes = [(n - 1) * d + 1 for n, d in zip(x.shape[-1 - axes : -1], per_axis(conv.input_dilation, axes))]
    kernel = per_axis(conv.kernel_size, 1)
    window = [(k - 1) * d + 1 for k, d in zip(kernel, per_axis(conv.kernel_dilation, axes))]
    return sizes, window, explicit_padding(conv.padding, sizes, window, per_axis(conv.strides, axes))


def _convolution_of_padded(
    lhs, rhs, strides, padding, *, mode, lhs_dilation, rhs_dilation, dimension_numbers, **kwargs
) -> jax.Array:
    """`kernels.convolution` whose padding is not of zeros. Channels last; no dilated input."""
    if set(lhs_dilation) != {1}:
        raise ValueError("A convolution with input_dilation can be padded with zeros only.")
    sizes, kernel = lhs.shape[1:-1], rhs.shape[:-2]
    window = [(k - 1) * d + 1 for k, d in zip(kernel, rhs_dilation)]
    pads = explicit_padding(padding, sizes, window, strides)
    if mode == "reflect" and any(max(p) >= n for p, n in zip(pads, sizes)):
        raise ValueError(f"A reflection of {max(map(max, pads))} positions needs more than as many, not {min(sizes)}.")
    lhs = jnp.pad(lhs, [(0, 0), *pads, (0, 0)], mode=mode)
    return kernels.convolution(
        lhs,
        rhs,
        strides,
        "VALID",
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        **kwargs,
    )


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
        return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


# A convolution whose weights are not shared: each position has its own ("locally connected", LeCun 1989).
LocallyConnected = nn.ConvLocal


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
        shape = (x.shape[0], *(n * self.scale for n in x.shape[1:-1]), x.shape[-1])
        x = jax.image.resize(x, shape, self.method)
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

"""Convolution and its two gradients: three bilinear kernels, each the transpose of the others."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from cnnjax.kernels import paths, portable
from cnnjax.kernels.derivation import primitive, with_onednn
from cnnjax.kernels.onednn.convolution import convolution as onednn_convolution
from cnnjax.kernels.window import Window, cropped, dilated, opposite


class Geometry(NamedTuple):
    """Shapes of input `[B, *spatial, C]`, kernel `[*window, C / groups, O]` and output, and what lies between them."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    window: Window
    groups: int


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, same arguments and values, on the path of `paths.using`.

    oneDNN's and the portable path serve 1 to 3 spatial axes, channels last (`[B, *spatial, C]`, `[*window, I, O]`), float32
    and bfloat16; the path of GPUs serves of these the transposed ones (a dilated input, no strides, no groups, a window no
    smaller than the dilation, no explicit precision); all else is XLA's.
    """
    exact = dict(
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    path, axes = paths.current(), lhs.ndim - 2
    transposed = max(lhs_dilation or (1,)) > 1
    usual = (
        paths.computes("transposed convolutions" if transposed else "convolutions", lhs, rhs)
        and not (isinstance(padding, str) and transposed)  # which lax refuses
        and not (path == paths.GPU and precision)  # they know the trace's alone; a CPU's are exact
        and lhs.dtype == rhs.dtype
        and preferred_element_type in (None, lhs.dtype)
        and 1 <= axes <= 3
        and batch_group_count == 1
        and _is_channels_last(lhs.shape, rhs.shape, dimension_numbers)
    )
    if not usual:
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **exact)
    strides, dilation = tuple(window_strides), tuple(rhs_dilation or (1,) * axes)
    spread = tuple(lhs_dilation or (1,) * axes)
    extent = dilated(rhs.shape[:-2], dilation)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(dilated(lhs.shape[1:-1], spread), extent, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    out = jax.eval_shape(lambda a, b: jax.lax.conv_general_dilated(a, b, strides, pads, **exact), lhs, rhs).shape
    if 0 in (*lhs.shape, *rhs.shape, *out):
        return jax.lax.conv_general_dilated(lhs, rhs, strides, pads, **exact)
    common = dict(path=path, precision=jax.config.jax_default_matmul_precision)  # of here, not of where it is lowered
    if set(spread) == {1}:
        lhs, pads = cropped(lhs, pads)
        geometry = Geometry(lhs.shape, rhs.shape, out, Window(strides, pads, dilation), feature_group_count)
        return convolution_p.bind(lhs, rhs, kind="forward", geometry=geometry, **common)
    # A dilated input: the gradient of the convolution that goes the other way, whose strides are this one's dilation.
    other = opposite(pads, extent)
    if set(strides) == {1} and feature_group_count == 1 and min(map(min, other)) >= 0:
        turned = jnp.flip(rhs, range(axes)).swapaxes(-1, -2)
        window = Window(spread, other, dilation)
        geometry = Geometry(out, turned.shape, lhs.shape, window, 1)
        return convolution_p.bind(lhs, turned, kind="input_gradient", geometry=geometry, **common)
    return jax.lax.conv_general_dilated(lhs, rhs, strides, pads, **exact)


def conv_transpose(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int] | None = None,
    precision=None,
    preferred_element_type=None,
) -> jax.Array:
    """`jax.lax.conv_transpose`, channels last, same arguments and values, on the path of `paths.using`."""
    axes = lhs.ndim - 2
    numbers = channels_last(axes)
    dilation = tuple(rhs_dilation or (1,) * axes)
    if isinstance(padding, str):
        padding = [_transposed(k, s, padding) for k, s in zip(dilated(rhs.shape[:-2], dilation), strides)]
    return convolution(
        lhs,
        rhs,
        (1,) * axes,
        padding,
        lhs_dilation=tuple(strides),
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _transposed(size: int, stride: int, padding: str) -> tuple[int, int]:
    """The padding of a transposed convolution whose forward convolution has this one, as `jax.lax.conv_transpose`."""
    if padding == "SAME":
        total = size + stride - 2
        before = size - 1 if stride > size - 1 else -(-total // 2)
    elif padding == "VALID":
        total = size + stride - 2 + max(size - stride, 0)
        before = size - 1
    else:
        raise ValueError(f"Invalid padding mode: {padding}")
    return before, total - before


def channels_last(axes: int) -> jax.lax.ConvDimensionNumbers:
    """The dimension numbers of `[B, *spatial, C]` and `[*window, I, O]` with so many spatial axes."""
    lhs = (0, axes + 1, *range(1, axes + 1))
    return jax.lax.ConvDimensionNumbers(lhs, (axes + 1, axes, *range(axes)), lhs)


def _is_channels_last(lhs_shape, rhs_shape, dimension_numbers) -> bool:
    numbers = jax.lax.conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)
    return numbers == channels_last(len(lhs_shape) - 2)


def _plain(a, b, *, kind: str, geometry: Geometry, path: str, precision: str | None) -> jax.Array:
    with jax.default_matmul_precision(precision):
        return portable.xla_convolution(a, b, kind, geometry)


def _portable(a, b, *, kind: str, geometry: Geometry, path: str, precision: str | None) -> jax.Array:
    form = portable.on_gpu if path == paths.GPU else portable.convolution
    with jax.default_matmul_precision(precision):
        return form(a, b, kind, geometry)


def _onednn(a, b, *, kind: str, geometry: Geometry, precision: str | None) -> jax.Array:
    return onednn_convolution(a, b, kind, geometry)


convolution_p = primitive("convolution", with_onednn(_onednn, _portable), _plain)


def _transpose(known: int, of: dict):
    """With respect to one argument, the other (0 or 1) being known: kind -> (kind, does the cotangent come first?)."""

    def rule(cotangent, *arrays, kind, **parameters):
        name, cotangent_first = of[kind]
        pair = (cotangent, arrays[known]) if cotangent_first else (arrays[known], cotangent)
        return convolution_p.bind(*pair, kind=name, **parameters)

    return rule


# forward (x, w) -> y; input_gradient (y, w) -> x; weight_gradient (x, y) -> w
_OF_FIRST = dict(
    forward=("input_gradient", True), input_gradient=("forward", True), weight_gradient=("input_gradient", False)
)
_OF_SECOND = dict(
    forward=("weight_gradient", False), input_gradient=("weight_gradient", True), weight_gradient=("forward", False)
)
ad.defbilinear(convolution_p, _transpose(1, _OF_FIRST), _transpose(0, _OF_SECOND))

"""The oneDNN primitives of each kernel, over arrays as JAX has them: channels last, kernels `[*spatial, I, O]`.

A builder gives (binds, runs): which memory objects take the call's buffers, and what is executed on them in order.
Shapes are plain tuples and types oneDNN's codes, so that a builder can run without JAX. Numbers in capitals are the
constants of oneDNN's dnnl_types.h.
"""

import ctypes
from math import prod

from cnnjax.kernels.onednn.handler import Bind, Run
from cnnjax.kernels.onednn.library import OneDNN, Unsupported
from cnnjax.kernels.window import Window

F32, BF16, U8 = 3, 2, 6  # dnnl_data_type_t
TYPES = dict(float32=F32, bfloat16=BF16, uint8=U8)
FORWARD_TRAINING, BACKWARD = 64, 128
CONVOLUTION_DIRECT, POOLING_MAX, LRN_ACROSS_CHANNELS = 1, 0x1FF, 0xAFF
USE_SCALE, USE_SHIFT = 2, 4
SRC, DST, WEIGHTS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE = 1, 17, 33, 49, 50, 51, 52, 64
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 255, 256
SRC_MD, DIFF_SRC_MD, WEIGHTS_MD, DIFF_WEIGHTS_MD, DST_MD, DIFF_DST_MD, WORKSPACE_MD = 129, 130, 131, 132, 133, 134, 135

Built = tuple[list[Bind], list[Run]]
LARGEST = 2**31 - 1  # elements along an axis or bytes between rows that 32-bit kernels can count


def steps_of(window: Window) -> tuple:
    """strides, dilation (0: dense), padding before, padding after, as oneDNN takes them."""
    before, after = zip(*window.padding)
    return tuple(dims(values) for values in (window.strides, [d - 1 for d in window.dilation], before, after))


def dims(values) -> ctypes.Array:
    return (ctypes.c_int64 * 12)(*values)


class Builder:
    """Descriptors and memory objects of one library."""

    def __init__(self, onednn: OneDNN):
        self.onednn, self.new = onednn, onednn.new

    def strided(self, shape, strides, kind: int) -> ctypes.c_void_p:
        if max(shape, default=0) > LARGEST or prod(shape) > LARGEST:
            raise Unsupported("Shapes that overflow 32 bits.")
        return self.new("memory_desc_create_with_strides", len(shape), dims(shape), kind, dims(strides))

    def plain(self, shape, kind: int) -> ctypes.c_void_p:
        """Row-major."""
        return self.strided(shape, row_major(shape), kind)

    def channels_last(self, shape, kind: int) -> ctypes.c_void_p:
        """`[B, *spatial, C]`, of which oneDNN speaks as B, C, spatial."""
        strides = row_major(shape)
        move = lambda t: (t[0], t[-1], *t[1:-1])
        return self.strided(move(shape), move(strides), kind)

    def kernel(self, shape, groups: int, kind: int) -> ctypes.c_void_p:
        """`[*spatial, I, O]`, of which oneDNN speaks as (groups,) O, I, spatial; O holds the groups side by side."""
        logical, strides = _kernel_dims(shape, groups)
        return self.strided(logical, strides, kind)

    def kernel_in_any_format(self, shape, groups: int, kind: int) -> ctypes.c_void_p:
        logical, _ = _kernel_dims(shape, groups)
        return self.new("memory_desc_create_with_tag", len(logical), dims(logical), kind, 1)

    def memory(self, description, owned: bool = False) -> ctypes.c_void_p:
        """A memory object, whose buffer each call brings, or which owns one."""
        return self.new("memory_create", description, self.onednn.engine, ctypes.c_void_p(-1 if owned else 0))

    def chosen(self, primitive_description, which: int) -> ctypes.c_void_p:
        """The description that a primitive chose for an argument."""
        return ctypes.c_void_p(self.onednn.library.dnnl_primitive_desc_query_md(primitive_description, which, 0))

    def primitive(self, description) -> int:
        return self.new("primitive_create", description).value

    def description(self, name: str, *arguments) -> ctypes.c_void_p:
        return self.new(f"{name}_primitive_desc_create", self.onednn.engine, *arguments)

    def reorder(self, source, target, source_memory, target_memory) -> Run:
        engine = self.onednn.engine
        how = self.new("reorder_primitive_desc_create", source, engine, target, engine, None)
        return self.primitive(how), [(SRC, source_memory.value), (DST, target_memory.value)]

    def equal(self, a, b) -> bool:
        return bool(self.onednn.library.dnnl_memory_desc_equal(a, b))


def convolution(b: Builder, kind: str, x, w, y, type_: int, window: Window, groups: int) -> Built:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw); x, w, y are shapes."""
    source, target = b.channels_last(x, type_), b.channels_last(y, type_)
    given, free = b.kernel(w, groups, type_), b.kernel_in_any_format(w, groups, type_)
    steps = steps_of(window)
    direct = CONVOLUTION_DIRECT
    forward = b.description("convolution_forward", FORWARD_TRAINING, direct, source, free, None, target, *steps, None)
    if kind == "forward":
        how, which, names = forward, WEIGHTS_MD, (SRC, WEIGHTS, DST)
    elif kind == "input_gradient":
        how = b.description("convolution_backward_data", direct, source, free, target, *steps, forward, None)
        which, names = WEIGHTS_MD, (DIFF_SRC, WEIGHTS, DIFF_DST)
    else:
        how = b.description("convolution_backward_weights", direct, source, free, None, target, *steps, forward, None)
        which, names = DIFF_WEIGHTS_MD, (SRC, DIFF_WEIGHTS, DIFF_DST)
    wanted = b.chosen(how, which)
    same = b.equal(wanted, given)
    x_memory, w_given, y_memory = b.memory(source), b.memory(given), b.memory(target)
    w_memory = w_given if same else b.memory(wanted, owned=True)
    runs = [(b.primitive(how), [(n, m.value) for n, m in zip(names, (x_memory, w_memory, y_memory))])]
    if not same and kind == "weight_gradient":
        runs = [*runs, b.reorder(wanted, given, w_memory, w_given)]
    elif not same:
        runs = [b.reorder(given, wanted, w_given, w_memory), *runs]
    order = dict(
        forward=(x_memory, w_given, y_memory),
        input_gradient=(y_memory, w_given, x_memory),
        weight_gradient=(x_memory, y_memory, w_given),
    )[kind]
    return _binds(order, results=1), runs


def product(b: Builder, left, right, out, type_: int, transpose_left: bool, transpose_right: bool) -> Built:
    """`[M, K] @ [K, N]`; a transposed operand is stored the other way round."""
    flipped = lambda shape, flip: (shape[::-1], row_major(shape)[::-1]) if flip else (shape, row_major(shape))
    descriptions = [
        b.strided(*flipped(left, transpose_left), type_),
        b.strided(*flipped(right, transpose_right), type_),
        b.plain(out, type_),
    ]
    how = b.description("matmul", descriptions[0], descriptions[1], None, descriptions[2], None)
    memories = [b.memory(d) for d in descriptions]
    return _binds(memories, results=1), [
        (b.primitive(how), [(n, m.value) for n, m in zip((SRC, WEIGHTS, DST), memories)])
    ]


def max_pool_gradient(b: Builder, x, y, type_: int, window: Window, size: tuple[int, ...]) -> Built:
    """(dy, place) -> dx; `place` numbers the pixels of each window row by row, one byte each."""
    source, target = b.channels_last(x, type_), b.channels_last(y, type_)
    strides, dilation, before, after = steps_of(window)
    arguments = (source, target, strides, dims(size), dilation, before, after)
    forward = b.description("pooling_forward", FORWARD_TRAINING, POOLING_MAX, *arguments, None)
    workspace = b.chosen(forward, WORKSPACE_MD)
    if not b.equal(workspace, b.channels_last(y, U8)):
        raise Unsupported("A window of more than 255 pixels.")
    how = b.description("pooling_backward", POOLING_MAX, *arguments, forward, None)
    dx, dy, place = b.memory(source), b.memory(target), b.memory(workspace)
    given = [(DIFF_SRC, dx.value), (DIFF_DST, dy.value), (WORKSPACE, place.value)]
    return _binds((dy, place, dx), results=1), [(b.primitive(how), given)]


def batch_norm(b: Builder, backward: bool, x, type_: int, epsilon: float) -> Built:
    """Forward (x, scale, bias) -> (y, mean, var); backward (dy, x, mean, var, scale) -> (dx, dscale, dbias)."""
    data, channels = b.channels_last(x, type_), b.plain(x[-1:], F32)
    flags = USE_SCALE | USE_SHIFT
    forward = b.description(
        "batch_normalization_forward", FORWARD_TRAINING, data, data, ctypes.c_float(epsilon), flags, None
    )
    per_channel = lambda: b.memory(channels)
    mean, var, scale = per_channel(), per_channel(), per_channel()
    if not backward:
        shift, source, target = per_channel(), b.memory(data), b.memory(data)
        names = {SRC: source, SCALE: scale, SHIFT: shift, DST: target, MEAN: mean, VARIANCE: var}
        how, order = forward, (source, scale, shift, target, mean, var)
    else:
        how = b.description(
            "batch_normalization_backward", BACKWARD, data, data, data, ctypes.c_float(epsilon), flags, forward, None
        )
        dy, source, dx, dscale, dshift = b.memory(data), b.memory(data), b.memory(data), per_channel(), per_channel()
        names = {DIFF_DST: dy, SRC: source, MEAN: mean, VARIANCE: var, SCALE: scale}
        names |= {DIFF_SRC: dx, DIFF_SCALE: dscale, DIFF_SHIFT: dshift}
        order = (dy, source, mean, var, scale, dx, dscale, dshift)
    return _binds(order, results=3), [(b.primitive(how), [(n, m.value) for n, m in names.items()])]


def response_norm(b: Builder, backward: bool, x, type_: int, n: int, k: float, alpha: float, beta: float) -> Built:
    """Forward x -> (y, workspace); backward (dy, x, workspace) -> dx. alpha multiplies the sum over the n channels."""
    data = b.channels_last(x, type_)
    window = (ctypes.c_int64(n), ctypes.c_float(alpha * n), ctypes.c_float(beta), ctypes.c_float(k))
    forward = b.description("lrn_forward", FORWARD_TRAINING, LRN_ACROSS_CHANNELS, data, data, *window, None)
    space = b.chosen(forward, WORKSPACE_MD)
    source, workspace = b.memory(data), b.memory(space)
    if not backward:
        y = b.memory(data)
        names, how, order, results = {SRC: source, DST: y, WORKSPACE: workspace}, forward, (source, y, workspace), 2
    else:
        how = b.description("lrn_backward", LRN_ACROSS_CHANNELS, data, data, data, *window, forward, None)
        dy, dx = b.memory(data), b.memory(data)
        names = {SRC: source, DIFF_DST: dy, DIFF_SRC: dx, WORKSPACE: workspace}
        order, results = (dy, source, workspace, dx), 1
    return _binds(order, results), [(b.primitive(how), [(m, v.value) for m, v in names.items()])]


def response_norm_workspace(b: Builder, x, type_: int, n: int, k: float, alpha: float, beta: float) -> int:
    """Bytes of the workspace that the forward pass leaves for the backward one."""
    data = b.channels_last(x, type_)
    window = (ctypes.c_int64(n), ctypes.c_float(alpha * n), ctypes.c_float(beta), ctypes.c_float(k))
    forward = b.description("lrn_forward", FORWARD_TRAINING, LRN_ACROSS_CHANNELS, data, data, *window, None)
    return b.onednn.library.dnnl_memory_desc_get_size(b.chosen(forward, WORKSPACE_MD))


def row_major(shape) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _kernel_dims(shape, groups: int):
    *spatial, inputs, outputs = shape
    *spatial_strides, input_stride, _ = row_major(shape)
    if groups == 1:
        return (outputs, inputs, *spatial), (1, input_stride, *spatial_strides)
    each = outputs // groups
    return (groups, each, inputs, *spatial), (each, 1, input_stride, *spatial_strides)


def _binds(memories, results: int) -> list[Bind]:
    """Arguments first, then results, each counted from 0."""
    count = len(memories) - results
    return [(m.value, i >= count, i - count if i >= count else i) for i, m in enumerate(memories)]

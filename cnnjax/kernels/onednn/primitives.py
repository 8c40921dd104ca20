"""The oneDNN primitives of each kernel, over arrays as JAX has them: channels last, kernels `[*spatial, I, O]`.

A function here gives a `Call`: which memory objects take the call's buffers, and what is executed on them in order.
What oneDNN needs besides, scratch memory and kernels in its own format, are further results of the call, so that XLA
finds room for them. (Left to itself oneDNN keeps scratch memory by thread, and XLA's threads change.)
Shapes are plain tuples and types oneDNN's codes, so that a builder can run without JAX. Numbers in capitals are the
constants of oneDNN's dnnl_types.h.
"""

import ctypes
from math import prod
from typing import NamedTuple

from cnnjax.kernels.onednn.library import OneDNN, Unsupported
from cnnjax.kernels.window import Window

F32, BF16, U8 = 3, 2, 6  # dnnl_data_type_t
TYPES = dict(float32=F32, bfloat16=BF16, uint8=U8)
FORWARD_TRAINING, BACKWARD = 64, 128
CONVOLUTION_DIRECT, POOLING_MAX, LRN_ACROSS_CHANNELS = 1, 0x1FF, 0xAFF
USE_SCALE, USE_SHIFT = 2, 4
ARGUMENTS = dict(src=1, dst=17, weights=33, mean=49, variance=50, scale=51, shift=52, workspace=64) | dict(
    diff_src=129, diff_dst=145, diff_weights=161, diff_scale=255, diff_shift=256
)
WEIGHTS_MD, DIFF_WEIGHTS_MD, WORKSPACE_MD = 131, 132, 135

SCRATCHPAD, SCRATCHPAD_MD, USER_SCRATCHPAD = 80, 136, 1
LARGEST = 2**31 - 1  # elements of an array, which kernels count in 32 bits


def steps_of(window: Window) -> tuple:
    """strides, dilation (0: dense), padding before, padding after, as oneDNN takes them."""
    before, after = zip(*window.padding)
    return tuple(dims(values) for values in (window.strides, [d - 1 for d in window.dilation], before, after))


def dims(values) -> ctypes.Array:
    return (ctypes.c_int64 * 12)(*values)


class Call(NamedTuple):
    """Memory objects of arguments, results and further results (with their sizes in bytes), and what is executed."""

    arguments: list[int]
    results: list[int]
    further: list[tuple[int, int]]
    runs: list[tuple[int, list[tuple[int, int]]]]  # primitive, (argument's name, memory) of each


class Builder:
    """Makes the descriptions, memory objects and primitives of one call."""

    def __init__(self, onednn: OneDNN):
        self.onednn, self.new = onednn, onednn.new
        self.further: list[tuple[int, int]] = []
        self.runs: list[tuple[int, list[tuple[int, int]]]] = []
        self.attributes = self.new("primitive_attr_create")
        onednn.library.dnnl_primitive_attr_set_scratchpad_mode(self.attributes, USER_SCRATCHPAD)

    def strided(self, shape, strides, kind: int) -> ctypes.c_void_p:
        if prod(shape) > LARGEST:
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

    def memory(self, description) -> int:
        """A memory object, whose buffer each call brings."""
        return self.new("memory_create", description, self.onednn.engine, ctypes.c_void_p(0)).value

    def size(self, description) -> int:
        return self.onednn.library.dnnl_memory_desc_get_size(description)

    def further_memory(self, description) -> int:
        """A memory object whose buffer is a further result of the call."""
        self.further.append((self.memory(description), self.size(description)))
        return self.further[-1][0]

    def chosen(self, description, which: int) -> ctypes.c_void_p:
        """What a primitive's description chose for an argument."""
        return ctypes.c_void_p(self.onednn.library.dnnl_primitive_desc_query_md(description, which, 0))

    def description(self, name: str, *arguments) -> ctypes.c_void_p:
        return self.new(f"{name}_primitive_desc_create", self.onednn.engine, *arguments, self.attributes)

    def run(self, description, **arguments: int) -> None:
        """Adds a primitive to what the call executes; arguments are memory objects by name."""
        given = [(ARGUMENTS[name], memory) for name, memory in arguments.items()]
        scratch = self.chosen(description, SCRATCHPAD_MD)
        if self.size(scratch):
            given.append((SCRATCHPAD, self.further_memory(scratch)))
        self.runs.append((self.new("primitive_create", description).value, given))

    def reorder(self, source, target, source_memory: int, target_memory: int) -> None:
        """Adds a change of format."""
        engine = self.onednn.engine
        how = self.new("reorder_primitive_desc_create", source, engine, target, engine, self.attributes)
        self.run(how, src=source_memory, dst=target_memory)

    def equal(self, a, b) -> bool:
        return bool(self.onednn.library.dnnl_memory_desc_equal(a, b))

    def call(self, arguments, results) -> Call:
        return Call(list(arguments), list(results), self.further, self.runs)


def convolution(b: Builder, kind: str, x, w, y, type_: int, window: Window, groups: int) -> Call:
    """`kind` is forward (x, w -> y), input_gradient (dy, w -> dx) or weight_gradient (x, dy -> dw); x, w, y are shapes."""
    source, target = b.channels_last(x, type_), b.channels_last(y, type_)
    given, free = b.kernel(w, groups, type_), b.kernel_in_any_format(w, groups, type_)
    steps, direct = steps_of(window), CONVOLUTION_DIRECT
    forward = b.description("convolution_forward", FORWARD_TRAINING, direct, source, free, None, target, *steps)
    if kind == "forward":
        how = forward
    elif kind == "input_gradient":
        how = b.description("convolution_backward_data", direct, source, free, target, *steps, forward)
    else:
        how = b.description("convolution_backward_weights", direct, source, free, None, target, *steps, forward)
    wanted = b.chosen(how, DIFF_WEIGHTS_MD if kind == "weight_gradient" else WEIGHTS_MD)
    x_memory, w_given, y_memory = b.memory(source), b.memory(given), b.memory(target)
    same = b.equal(wanted, given)
    w_memory = w_given if same else b.further_memory(wanted)
    if not same and kind != "weight_gradient":
        b.reorder(given, wanted, w_given, w_memory)
    if kind == "forward":
        b.run(how, src=x_memory, weights=w_memory, dst=y_memory)
        return b.call([x_memory, w_given], [y_memory])
    if kind == "input_gradient":
        b.run(how, diff_src=x_memory, weights=w_memory, diff_dst=y_memory)
        return b.call([y_memory, w_given], [x_memory])
    b.run(how, src=x_memory, diff_weights=w_memory, diff_dst=y_memory)
    if not same:
        b.reorder(wanted, given, w_memory, w_given)
    return b.call([x_memory, y_memory], [w_given])


def product(b: Builder, left, right, out, type_: int, transpose_left: bool, transpose_right: bool) -> Call:
    """`[M, K] @ [K, N]`; a transposed operand is stored the other way round."""
    flipped = lambda shape, flip: (shape[::-1], row_major(shape)[::-1]) if flip else (shape, row_major(shape))
    left = b.strided(*flipped(left, transpose_left), type_)
    right = b.strided(*flipped(right, transpose_right), type_)
    out = b.plain(out, type_)
    how = b.description("matmul", left, right, None, out)
    src, weights, dst = map(b.memory, (left, right, out))
    b.run(how, src=src, weights=weights, dst=dst)
    return b.call([src, weights], [dst])


def max_pool_gradient(b: Builder, x, y, type_: int, window: Window, size: tuple[int, ...]) -> Call:
    """(dy, place) -> dx; `place` numbers the pixels of each window row by row, one byte each."""
    source, target = b.channels_last(x, type_), b.channels_last(y, type_)
    strides, dilation, before, after = steps_of(window)
    arguments = (source, target, strides, dims(size), dilation, before, after)
    forward = b.description("pooling_forward", FORWARD_TRAINING, POOLING_MAX, *arguments)
    workspace = b.chosen(forward, WORKSPACE_MD)
    if not b.equal(workspace, b.channels_last(y, U8)):
        raise Unsupported("A window of more than 255 pixels.")
    how = b.description("pooling_backward", POOLING_MAX, *arguments, forward)
    dx, dy, place = map(b.memory, (source, target, workspace))
    b.run(how, diff_src=dx, diff_dst=dy, workspace=place)
    return b.call([dy, place], [dx])


def batch_norm(b: Builder, backward: bool, x, type_: int, epsilon: float) -> Call:
    """Forward (x, scale, bias) -> (y, mean, var); backward (dy, x, mean, var, scale) -> (dx, dscale, dbias)."""
    data, channels = b.channels_last(x, type_), b.plain(x[-1:], F32)
    how = forward = b.description(
        "batch_normalization_forward", FORWARD_TRAINING, data, data, ctypes.c_float(epsilon), USE_SCALE | USE_SHIFT
    )
    src, mean, variance, scale = map(b.memory, (data, channels, channels, channels))
    if not backward:
        shift, dst = map(b.memory, (channels, data))
        b.run(how, src=src, scale=scale, shift=shift, dst=dst, mean=mean, variance=variance)
        return b.call([src, scale, shift], [dst, mean, variance])
    how = b.description(
        "batch_normalization_backward",
        BACKWARD,
        data,
        data,
        data,
        ctypes.c_float(epsilon),
        USE_SCALE | USE_SHIFT,
        forward,
    )
    dy, dx, dscale, dshift = map(b.memory, (data, data, channels, channels))
    given = dict(diff_dst=dy, src=src, mean=mean, variance=variance, scale=scale)
    b.run(how, **given, diff_src=dx, diff_scale=dscale, diff_shift=dshift)
    return b.call([dy, src, mean, variance, scale], [dx, dscale, dshift])


def response_norm(b: Builder, backward: bool, x, type_: int, n: int, k: float, alpha: float, beta: float) -> Call:
    """Forward x -> (y, workspace); backward (dy, x, workspace) -> dx. alpha multiplies the sum over the n channels."""
    data, how, space = _response_norm(b, x, type_, n, k, alpha, beta)
    src, workspace = map(b.memory, (data, space))
    if not backward:
        dst = b.memory(data)
        b.run(how, src=src, dst=dst, workspace=workspace)
        return b.call([src], [dst, workspace])
    window = _response_window(n, k, alpha, beta)
    how = b.description("lrn_backward", LRN_ACROSS_CHANNELS, data, data, data, *window, how)
    dy, dx = map(b.memory, (data, data))
    b.run(how, src=src, diff_dst=dy, diff_src=dx, workspace=workspace)
    return b.call([dy, src, workspace], [dx])


def response_norm_workspace(b: Builder, x, type_: int, n: int, k: float, alpha: float, beta: float) -> int:
    """Bytes of the workspace that the forward pass leaves for the backward one."""
    return b.size(_response_norm(b, x, type_, n, k, alpha, beta)[2])


def _response_norm(b: Builder, x, type_: int, *parameters):
    """(description of the data, of the forward primitive, of its workspace)."""
    if parameters[0] != 5:  # the paper's; of others the gradient is slow (3) or wrong (7) in oneDNN 3.2
        raise Unsupported("Sums over other than 5 channels.")
    data = b.channels_last(x, type_)
    window = _response_window(*parameters)
    forward = b.description("lrn_forward", FORWARD_TRAINING, LRN_ACROSS_CHANNELS, data, data, *window)
    return data, forward, b.chosen(forward, WORKSPACE_MD)


def _response_window(n: int, k: float, alpha: float, beta: float):
    """As oneDNN takes them, which divides alpha by n."""
    return ctypes.c_int64(n), ctypes.c_float(alpha * n), ctypes.c_float(beta), ctypes.c_float(k)


def row_major(shape) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _kernel_dims(shape, groups: int):
    *spatial, inputs, outputs = shape
    *spatial_strides, input_stride, _ = row_major(shape)
    if groups == 1:
        return (outputs, inputs, *spatial), (1, input_stride, *spatial_strides)
    each = outputs // groups
    return (groups, each, inputs, *spatial), (each, 1, input_stride, *spatial_strides)

"""Primitives that bring several elements together: reductions, windows, convolutions, products."""

import numpy as np

from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import NOTHING, Interval
from cnnjax.inspection.propagation import refuse, seen_by
from cnnjax.inspection.rules.table import output, rule, spatial_axes


@rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"
)
def reduce(eqn, inputs, cut_gates):
    return [output(eqn, (intervals.reduced(i, eqn.params["axes"], inputs[0].shape) for i in inputs[0].sees))]


@rule("reduce")
def reduce_by_function(eqn, inputs, cut_gates):
    """Of several arrays at once; the second half of the operands is what each begins with."""
    count = len(eqn.outvars)
    operands, starts, shape = inputs[:count], inputs[count:], inputs[0].shape
    sees, rank = [], len(eqn.outvars[0].aval.shape)
    for n in spatial_axes(inputs):
        whole = intervals.union((seen_by(v, n) for v in operands), len(shape))
        folded = whole if whole.empty else intervals.reduced(whole, eqn.params["dimensions"], shape)
        sees.append(intervals.union((folded, *(seen_by(v, n) for v in starts)), rank))
    return [output(eqn, sees, n) for n in range(count)]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(eqn, inputs, cut_gates):
    """Each element sees all before it, and itself."""
    axis = eqn.params["axis"]
    turn = (lambda a: np.flip(a, axis)) if eqn.params["reverse"] else (lambda a: a)
    sees = [
        Interval(
            turn(np.minimum.accumulate(turn(i.low), axis)),
            turn(np.maximum.accumulate(turn(i.high), axis)),
            None if i.affine is None or i.affine.moves(axis) else i.affine,
        )
        for i in inputs[0].sees
    ]
    return [output(eqn, sees)]


@rule("sort", "top_k")
def sort(eqn, inputs, cut_gates):
    """Any element along the axis may come from anywhere on it, whichever operand decides."""
    rank = len(inputs[0].shape)
    axis = eqn.params.get("dimension", eqn.params.get("axis", -1)) % rank
    sees = []
    for n in spatial_axes(inputs):
        whole = intervals.union((seen_by(v, n) for v in inputs), rank)
        moves = whole.affine is not None and whole.affine.moves(axis)
        low, high = whole.low.min(axis, keepdims=True), whole.high.max(axis, keepdims=True)
        sees.append(Interval(low, high, None if moves else whole.affine))
    return [output(eqn, sees, n) for n in range(len(eqn.outvars))]


@rule("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")
def window(eqn, inputs, cut_gates):
    p = eqn.params
    operands = inputs[: len(eqn.outvars)]  # the others are where each of them starts
    value = next(v for v in operands if v.sees)
    rank, out = len(value.shape), eqn.outvars[0].aval.shape
    ones = (1,) * rank
    windows, strides, padding = p["window_dimensions"], p["window_strides"] or ones, p["padding"]
    base, dilation = p.get("base_dilation") or ones, p.get("window_dilation") or ones

    def moved(interval):
        for n in range(rank):
            if (windows[n], strides[n], tuple(padding[n]), base[n]) != (1, 1, (0, 0), 1):
                taps = [t * dilation[n] for t in range(windows[n])]
                interval = intervals.windowed(
                    interval, n, value.shape[n], out[n], taps, strides[n], padding[n][0], base[n]
                )
        return interval

    whole = [intervals.union((seen_by(v, n) for v in operands), rank) for n in spatial_axes(operands)]
    return [output(eqn, map(moved, whole), n) for n in range(len(eqn.outvars))]


@rule("conv_general_dilated")
def convolution(eqn, inputs, cut_gates):
    """Windows along the spatial axes, whose taps that are known to be zero do not count; groups see their own channels."""
    p, (image, kernel) = eqn.params, inputs
    lhs, rhs, out = p["dimension_numbers"]
    shape, rank = eqn.outvars[0].aval.shape, len(image.shape)
    if p["batch_group_count"] != 1:
        refuse(eqn, "a convolution with batch groups")

    def moved(interval):
        arrays = intervals.placed(interval, [out[lhs.index(a)] for a in range(rank)], rank)  # axes as in the output
        for n in range(rank - 2):
            axis, size = out[2 + n], image.shape[lhs[2 + n]]
            taps = range(kernel.shape[rhs[2 + n]])
            if kernel.known is not None:
                others = tuple(a for a in range(rank) if a != rhs[2 + n])
                taps = np.flatnonzero((kernel.known != 0).any(others))
                if not len(taps):
                    return intervals.nothing(rank)
            taps = [int(t) * p["rhs_dilation"][n] for t in taps]
            arrays = intervals.windowed(
                arrays, axis, size, shape[axis], taps, p["window_strides"][n], p["padding"][n][0], p["lhs_dilation"][n]
            )
        return _of_groups(arrays, out[1], image.shape[lhs[1]], shape[out[1]], p["feature_group_count"])

    sees = []
    for axis in spatial_axes(inputs):
        parts = [moved(image.sees[axis])] if image.sees else []
        if kernel.sees:  # made of the image, all of it may matter everywhere
            low, high = kernel.sees[axis].low.min(), kernel.sees[axis].high.max()
            parts.append(intervals.scalar(Interval(low, high, None), rank))
        sees.append(intervals.union(parts, rank))
    return [output(eqn, sees)]


def _of_groups(interval: Interval, axis: int, before: int, after: int, groups: int) -> Interval:
    """Every output channel sees all input channels of its group."""
    low, high, affine = interval
    if affine and affine.moves(axis):
        affine = None
    if affine and groups == 1:
        affine = affine._replace(mixed=tuple(a for a in affine.mixed if a != axis))
    if low.shape[axis] == high.shape[axis] == 1:
        return Interval(low, high, affine)

    def channels(array, extreme):
        array = np.broadcast_to(array, [before if n == axis else s for n, s in enumerate(array.shape)])
        parts = np.split(array, groups, axis)
        return np.repeat(np.concatenate([extreme(part, axis) for part in parts], axis), after // groups, axis)

    lowest, highest = (lambda a, n: a.min(n, keepdims=True)), (lambda a, n: a.max(n, keepdims=True))
    return intervals.collapsed(*np.broadcast_arrays(channels(low, lowest), channels(high, highest)), affine)


@rule("dot_general")
def product(eqn, inputs, cut_gates):
    """Contracted axes are reduced; where the other factor is known, over its elements that are not zero."""
    (left, right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    rank = len(eqn.outvars[0].aval.shape)
    free = [
        [a for a in range(len(v.shape)) if a not in (*contracted, *batch)]
        for v, contracted, batch in zip(inputs, (left, right), (batch_left, batch_right))
    ]
    sides = (
        (inputs[0], left, batch_left, free[0], 0, inputs[1], right, free[1], len(free[0])),
        (inputs[1], right, batch_right, free[1], len(free[0]), inputs[0], left, free[0], 0),
    )
    sees = []
    for axis in spatial_axes(inputs):
        parts = []
        for value, contracted, batch, own, place, other, other_contracted, other_free, other_place in sides:
            if not value.sees:
                continue
            axes = [*batch, *own]  # of the output: batch axes first, then those of the left, then of the right factor
            target = [*range(len(batch)), *(len(batch) + place + n for n in range(len(own)))]
            pattern = None
            if other.known is not None and len(contracted) == 1 and not other.known.all():
                others = tuple(a for a in range(len(other.shape)) if a not in (other_contracted[0], *other_free))
                pattern = (other.known != 0).any(others)  # [contracted and free axes, in their order]
                pattern = np.moveaxis(pattern, sum(a < other_contracted[0] for a in other_free), 0)
            spread = [len(batch) + other_place + n for n in range(len(other_free))]
            parts.append(_contracted(value.sees[axis], value.shape, contracted, axes, target, rank, pattern, spread))
        sees.append(intervals.union(parts, rank))
    return [output(eqn, sees)]


def _contracted(interval, shape, contracted, axes, target, rank, pattern, spread) -> Interval:
    """A factor of a product after the sum over its contracted axes, with the axes that it keeps where the output has them.

    `pattern` `[contracted, *free axes of the other factor]` says which products are not zero; None: all.
    """
    one = contracted[0] if len(contracted) == 1 else None
    if pattern is None or interval.low.shape[one] == interval.high.shape[one] == 1:
        reduced = intervals.reduced(interval, contracted, shape)
        kept = [a for a in range(len(shape)) if a not in contracted]
        return intervals.placed(reduced, [target[axes.index(a)] for a in kept], rank)
    arrays = []
    for array, extreme, none in ((interval.low, np.min, NOTHING), (interval.high, np.max, -NOTHING)):
        array = np.broadcast_to(array, [shape[one] if a == one else s for a, s in enumerate(array.shape)])
        array = array.transpose(one, *axes)
        placed = np.ones(rank, int)
        placed[target] = array.shape[1:]
        array = array.reshape(shape[one], *placed[:rank]) if list(target) == sorted(target) else None
        beside = np.ones(rank, int)
        beside[spread] = pattern.shape[1:]
        where = pattern.reshape(shape[one], *beside)
        arrays.append(extreme(np.where(where, array, none), axis=0))
    return intervals.collapsed(*np.broadcast_arrays(*arrays), None)

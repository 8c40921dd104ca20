"""What each primitive of JAX does to the field of view: `RULES[name](equation, inputs, cut_gates) -> outputs`.

A rule is only asked when some input sees the image. Primitives that are not here are named to the user, never guessed.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import NOTHING, Interval
from cnnjax.inspection.propagation import Value, refuse, seen_by

RULES: dict[str, Callable] = {}


def rule(*names: str) -> Callable:
    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _value(eqn, sees, n: int = 0) -> Value:
    return Value(tuple(eqn.outvars[n].aval.shape), tuple(sees))


def _axes(inputs: Sequence[Value]) -> range:
    """The spatial axes of the input image, by number."""
    return range(len(next(value.sees for value in inputs if value.sees)))


def _masked(interval: Interval, keep: np.ndarray) -> Interval:
    """Where `keep` is off nothing is seen."""
    if keep.all():
        return interval
    low, high = np.where(keep, interval.low, NOTHING), np.where(keep, interval.high, -NOTHING)
    return intervals.collapsed(low, high, None)


ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp complex conj convert_element_type copy copy_p
    cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le
    le_to lgamma log log1p logistic lt lt_to max min ne neg nextafter not or polygamma population_count pow real
    reduce_precision rem round rsqrt shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan
    tanh xor zeta stop_gradient
""".split()


@rule(*ELEMENTWISE)
def elementwise(eqn, inputs, cut_gates):
    rank = len(eqn.outvars[0].aval.shape)
    join = lambda axis: intervals.union((seen_by(v, axis) for v in inputs), rank, cut_gates)
    return [_value(eqn, map(join, _axes(inputs)))]


@rule("mul")
def multiply(eqn, inputs, cut_gates):
    """As elementwise; a factor that is known to be zero lets nothing through."""
    (result,) = elementwise(eqn, inputs, cut_gates)
    for value in inputs:
        if value.known is not None and not value.known.all():
            keep = np.broadcast_to(value.known, result.shape) != 0
            result = result._replace(sees=tuple(_masked(i, keep) for i in result.sees))
    return [result]


@rule("select_n")
def select(eqn, inputs, cut_gates):
    """One of several arrays at each element; which one is followed where it is known."""
    which, *cases = inputs
    if which.known is None:
        return elementwise(eqn, inputs, cut_gates)
    shape, sees = tuple(eqn.outvars[0].aval.shape), []
    chosen = np.broadcast_to(which.known, shape).astype(int)
    for axis in _axes(inputs):
        parts = [_masked(seen_by(case, axis), chosen == n) for n, case in enumerate(cases) if (chosen == n).any()]
        sees.append(intervals.union(parts, len(shape)))
    return [Value(shape, tuple(sees))]


@rule("optimization_barrier", "device_put", "sharding_constraint", "mesh_cast", "reshard", "pvary")
def unchanged(eqn, inputs, cut_gates):
    return list(inputs)


# --- Shapes -----------------------------------------------------------------------------------------------------------


@rule("broadcast_in_dim")
def broadcast(eqn, inputs, cut_gates):
    axes, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    return [_value(eqn, (intervals.placed(i, axes, len(shape)) for i in inputs[0].sees))]


@rule("reshape", "squeeze", "expand_dims")
def reshape(eqn, inputs, cut_gates):
    new = eqn.outvars[0].aval.shape
    return [_value(eqn, (intervals.reshaped(i, inputs[0].shape, new) for i in inputs[0].sees))]


@rule("transpose")
def transpose(eqn, inputs, cut_gates):
    axes = np.argsort(eqn.params["permutation"])
    return [_value(eqn, (intervals.placed(i, [int(a) for a in axes], len(axes)) for i in inputs[0].sees))]


@rule("rev")
def reverse(eqn, inputs, cut_gates):
    def turned(interval):
        for axis in eqn.params["dimensions"]:
            interval = intervals.indexed(interval, axis, inputs[0].shape[axis] - 1, 0, -1)
        return interval

    return [_value(eqn, map(turned, inputs[0].sees))]


@rule("slice")
def slice_(eqn, inputs, cut_gates):
    p = eqn.params
    steps = p["strides"] or (1,) * len(p["start_indices"])

    def cut(interval):
        for axis, bounds in enumerate(zip(p["start_indices"], p["limit_indices"], steps)):
            if bounds != (0, inputs[0].shape[axis], 1):
                interval = intervals.indexed(interval, axis, *bounds)
        return interval

    return [_value(eqn, map(cut, inputs[0].sees))]


@rule("split")
def split(eqn, inputs, cut_gates):
    axis, start, outputs = eqn.params["axis"], 0, []
    for n, size in enumerate(eqn.params["sizes"]):
        parts = [intervals.indexed(i, axis, start, start + size) for i in inputs[0].sees]
        outputs.append(_value(eqn, parts, n))
        start += size
    return outputs


@rule("pad")
def pad(eqn, inputs, cut_gates):
    """Zeros (or another constant) before, after and between; a negative amount cuts off."""

    def padded(interval):
        for axis, (before, after, between) in enumerate(eqn.params["padding_config"]):
            if before or after or between:
                size = inputs[0].shape[axis]
                positions = before + after + (size - 1) * (between + 1) + 1
                interval = intervals.windowed(interval, axis, size, positions, [0], 1, before, between + 1)
        return interval

    sees = [intervals.union([padded(seen_by(inputs[0], axis)), seen_by(inputs[1], axis)], len(inputs[0].shape))
            for axis in _axes(inputs)]  # fmt: skip
    return [_value(eqn, sees)]


@rule("concatenate")
def concatenate(eqn, inputs, cut_gates):
    """Each part keeps its own intervals; the law is that of all together where they move alike."""
    along, sees = eqn.params["dimension"], []
    for axis in _axes(inputs):
        parts = [seen_by(value, axis) for value in inputs]
        laws = [i.affine for i in parts if not i.empty]
        law = functools.reduce(intervals.joint_law, laws) if laws else None
        if law and law.moves(along):
            law = None
        arrays = []
        for array in ("low", "high"):
            wholes = [getattr(i, array) for i in parts]
            shape = np.broadcast_shapes(*((*w.shape[:along], 1, *w.shape[along + 1 :]) for w in wholes))
            wholes = [
                np.broadcast_to(w, (*shape[:along], value.shape[along], *shape[along + 1 :]))
                for w, value in zip(wholes, inputs)
            ]
            arrays.append(np.concatenate(wholes, along))
        low, high = np.broadcast_arrays(*arrays)
        sees.append(intervals.collapsed(low, high, law))
    return [_value(eqn, sees)]


# --- Reductions and windows -------------------------------------------------------------------------------------------


@rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"
)
def reduce(eqn, inputs, cut_gates):
    return [_value(eqn, (intervals.reduced(i, eqn.params["axes"], inputs[0].shape) for i in inputs[0].sees))]


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
    return [_value(eqn, sees)]


@rule("sort", "top_k")
def sort(eqn, inputs, cut_gates):
    """Any element along the axis may come from anywhere on it, whichever operand decides."""
    rank = len(inputs[0].shape)
    axis = eqn.params.get("dimension", rank - 1)
    sees = []
    for n in _axes(inputs):
        whole = intervals.union((seen_by(v, n) for v in inputs), rank)
        moves = whole.affine is not None and whole.affine.moves(axis)
        low, high = whole.low.min(axis, keepdims=True), whole.high.max(axis, keepdims=True)
        sees.append(Interval(low, high, None if moves else whole.affine))
    return [_value(eqn, sees, n) for n in range(len(eqn.outvars))]


@rule("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")
def window(eqn, inputs, cut_gates):
    p, value = eqn.params, inputs[0]
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

    return [_value(eqn, map(moved, value.sees))]


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
    for axis in _axes(inputs):
        parts = [moved(image.sees[axis])] if image.sees else []
        if kernel.sees:  # made of the image, all of it may matter everywhere
            low, high = kernel.sees[axis].low.min(), kernel.sees[axis].high.max()
            parts.append(intervals.scalar(Interval(low, high, None), rank))
        sees.append(intervals.union(parts, rank))
    return [_value(eqn, sees)]


def _of_groups(interval: Interval, axis: int, before: int, after: int, groups: int) -> Interval:
    """Every output channel sees all input channels of its group."""
    low, high, affine = interval
    if affine and affine.moves(axis):
        affine = None
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
    for axis in _axes(inputs):
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
    return [_value(eqn, sees)]


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


# --- Indices ----------------------------------------------------------------------------------------------------------


@rule("gather", "dynamic_slice", "dynamic_update_slice", "scatter")
def moved_by_index(eqn, inputs, cut_gates):
    """Elements are only moved: the primitive itself moves their intervals, for indices that are known."""
    name, p = eqn.primitive.name, dict(eqn.params)
    arrays = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2, "scatter": 3}[name]
    carriers = [0] if arrays == 1 else [0, 1] if name == "dynamic_update_slice" else [0, 2]
    indices = [value for n, value in enumerate(inputs) if n not in carriers]
    if any(value.known is None for value in indices):
        why = "the image" if any(value.sees for value in indices) else "parameters or random numbers"
        refuse(eqn, f"{name} by indices made of {why}")
    sees = []
    for axis in _axes(inputs):
        ends = []
        for low in (True, False):
            if name == "gather" and p.get("fill_value") is None and "fill_value" in p:
                p["fill_value"] = NOTHING_32 if low else -NOTHING_32
            operands = []
            for n, value in enumerate(inputs):
                if n in carriers:
                    array = intervals.full(seen_by(value, axis), value.shape)[0 if low else 1]
                    operands.append(np.clip(array, -NOTHING_32, NOTHING_32).astype(np.int32))
                else:
                    operands.append(value.known)
            ends.append(np.asarray(eqn.primitive.bind(*map(jax.numpy.asarray, operands), **p)).astype(np.int64))
            p["fill_value"] = eqn.params.get("fill_value") if "fill_value" in eqn.params else None
            p = {k: v for k, v in p.items() if k in eqn.params}
        low, high = ends
        low, high = np.where(low == NOTHING_32, NOTHING, low), np.where(high == -NOTHING_32, -NOTHING, high)
        sees.append(intervals.collapsed(low, high, None))
    return [_value(eqn, sees)]


NOTHING_32 = 2**30  # as NOTHING, for arrays that JAX moves

"""Elementwise primitives, and those that only move elements: reshape, slice, pad, concatenate, gather."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import NOTHING, Interval
from cnnjax.inspection.propagation import Value, refuse, seen_by
from cnnjax.inspection.rules.table import masked, output, rule, spatial_axes

ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp complex conj convert_element_type copy copy_p
    cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le
    le_to lgamma log log1p logistic lt lt_to max min ne neg nextafter not or polygamma population_count pow real
    reduce_precision rem round rsqrt shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan
    tanh xor zeta stop_gradient
""".split()


@rule(*ELEMENTWISE)
def elementwise(eqn, inputs, cut_gates):
    shape = eqn.outvars[0].aval.shape

    def join(axis: int):
        parts = []
        for value in inputs:
            repeated = [n for n, (own, whole) in enumerate(zip(value.shape, shape)) if own == 1 < whole]
            parts.append(intervals.unmoved(seen_by(value, axis), repeated))
        return intervals.union(parts, len(shape), cut_gates)

    return [output(eqn, map(join, spatial_axes(inputs)))]


@rule("mul")
def multiply(eqn, inputs, cut_gates):
    """As elementwise; a factor that is known to be zero lets nothing through."""
    (result,) = elementwise(eqn, inputs, cut_gates)
    for value in inputs:
        if value.known is not None and not value.known.all():
            keep = np.broadcast_to(value.known, result.shape) != 0
            result = result._replace(sees=tuple(masked(i, keep) for i in result.sees))
    return [result]


@rule("select_n")
def select(eqn, inputs, cut_gates):
    """One of several arrays at each element; which one is followed where it is known."""
    which, *cases = inputs
    if which.known is None:
        return elementwise(eqn, inputs, cut_gates)
    shape, sees = tuple(eqn.outvars[0].aval.shape), []
    chosen = np.broadcast_to(which.known, shape).astype(int)
    for axis in spatial_axes(inputs):
        parts = [masked(seen_by(case, axis), chosen == n) for n, case in enumerate(cases) if (chosen == n).any()]
        sees.append(intervals.union(parts, len(shape)))
    return [Value(shape, tuple(sees))]


@rule("optimization_barrier", "device_put", "sharding_constraint", "mesh_cast", "reshard", "pvary")
def unchanged(eqn, inputs, cut_gates):
    return list(inputs)


# --- Shapes -----------------------------------------------------------------------------------------------------------


@rule("broadcast_in_dim")
def broadcast(eqn, inputs, cut_gates):
    axes, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    repeated = [n for n, axis in enumerate(axes) if inputs[0].shape[n] == 1 < shape[axis]]
    sees = (intervals.unmoved(i, repeated) for i in inputs[0].sees)
    return [output(eqn, (intervals.placed(i, axes, len(shape)) for i in sees))]


@rule("reshape", "squeeze", "expand_dims")
def reshape(eqn, inputs, cut_gates):
    new = eqn.outvars[0].aval.shape
    return [output(eqn, (intervals.reshaped(i, inputs[0].shape, new) for i in inputs[0].sees))]


@rule("transpose")
def transpose(eqn, inputs, cut_gates):
    axes = np.argsort(eqn.params["permutation"])
    return [output(eqn, (intervals.placed(i, [int(a) for a in axes], len(axes)) for i in inputs[0].sees))]


@rule("rev")
def reverse(eqn, inputs, cut_gates):
    def turned(interval):
        for axis in eqn.params["dimensions"]:
            interval = intervals.indexed(interval, axis, inputs[0].shape[axis] - 1, 0, -1)
        return interval

    return [output(eqn, map(turned, inputs[0].sees))]


@rule("slice")
def slice_(eqn, inputs, cut_gates):
    p = eqn.params
    steps = p["strides"] or (1,) * len(p["start_indices"])

    def cut(interval):
        for axis, bounds in enumerate(zip(p["start_indices"], p["limit_indices"], steps)):
            if bounds != (0, inputs[0].shape[axis], 1):
                interval = intervals.indexed(interval, axis, *bounds)
        return interval

    return [output(eqn, map(cut, inputs[0].sees))]


@rule("split")
def split(eqn, inputs, cut_gates):
    axis, start, outputs = eqn.params["axis"], 0, []
    for n, size in enumerate(eqn.params["sizes"]):
        parts = [intervals.indexed(i, axis, start, start + size) for i in inputs[0].sees]
        outputs.append(output(eqn, parts, n))
        start += size
    return outputs


@rule("pad")
def pad(eqn, inputs, cut_gates):
    """Zeros (or another constant) before, after and between; a negative amount cuts off."""

    def padded(interval):
        for axis, amounts in enumerate(eqn.params["padding_config"]):
            before, after, between = map(int, amounts)  # NumPy's, perhaps
            if before or after or between:
                size = inputs[0].shape[axis]
                positions = before + after + (size - 1) * (between + 1) + 1
                interval = intervals.windowed(interval, axis, size, positions, [0], 1, before, between + 1)
        return interval

    sees = [intervals.union([padded(seen_by(inputs[0], axis)), seen_by(inputs[1], axis)], len(inputs[0].shape))
            for axis in spatial_axes(inputs)]  # fmt: skip
    return [output(eqn, sees)]


@rule("concatenate")
def concatenate(eqn, inputs, cut_gates):
    along = eqn.params["dimension"]
    sizes = [value.shape[along] for value in inputs]
    parts = lambda axis: [seen_by(value, axis) for value in inputs]
    return [output(eqn, (_side_by_side(parts(axis), sizes, along) for axis in spatial_axes(inputs)))]


@rule("stack")
def stack(eqn, inputs, cut_gates):
    along, rank = eqn.params["axis"], len(eqn.outvars[0].aval.shape)
    others, sizes = [n for n in range(rank) if n != along], [1] * len(inputs)
    parts = lambda axis: [intervals.placed(seen_by(value, axis), others, rank) for value in inputs]
    return [output(eqn, (_side_by_side(parts(axis), sizes, along) for axis in spatial_axes(inputs)))]


def _side_by_side(parts: Sequence[Interval], sizes: Sequence[int], along: int) -> Interval:
    """Each part keeps its own intervals; the law is that of all together where they move alike."""
    laws = [i.affine for i in parts if not i.empty]
    law = functools.reduce(intervals.joint_law, laws) if laws else None
    if law and law.moves(along):
        law = None
    elif law and len({(one.low, one.high) if one else None for one in laws}) > 1 or law and len(laws) < len(parts):
        law = law._replace(mixed=tuple(sorted({*law.mixed, along})))
    arrays = []
    for array in ("low", "high"):
        wholes = [getattr(i, array) for i in parts]
        shape = np.broadcast_shapes(*((*w.shape[:along], 1, *w.shape[along + 1 :]) for w in wholes))
        wholes = [np.broadcast_to(w, (*shape[:along], size, *shape[along + 1 :])) for w, size in zip(wholes, sizes)]
        arrays.append(np.concatenate(wholes, along))
    low, high = np.broadcast_arrays(*arrays)
    return intervals.collapsed(low, high, law)


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
    for axis in spatial_axes(inputs):
        ends = []
        for low in (True, False):
            if name == "gather":  # what is filled in comes from nowhere
                p["fill_value"] = NOTHING_32 if low else -NOTHING_32
            operands = []
            for n, value in enumerate(inputs):
                if n in carriers:
                    array = intervals.full(seen_by(value, axis), value.shape)[0 if low else 1]
                    operands.append(np.clip(array, -NOTHING_32, NOTHING_32).astype(np.int32))
                else:
                    operands.append(value.known)
            ends.append(np.asarray(eqn.primitive.bind(*map(jax.numpy.asarray, operands), **p)).astype(np.int64))
        low, high = ends
        low, high = np.where(low == NOTHING_32, NOTHING, low), np.where(high == -NOTHING_32, -NOTHING, high)
        sees.append(intervals.collapsed(low, high, None))
    return [output(eqn, sees)]


NOTHING_32 = 2**30  # as NOTHING, for arrays that JAX moves

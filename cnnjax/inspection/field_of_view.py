"""The field of view of any pure JAX function: which part of its input each output position can see, exactly.

Found in the traced function (its jaxpr), not in a list of layer classes, so whatever JAX can trace has one: branches of
different depth, dilation, transposed convolutions, resizing, reflection, loops. For a plain stack of layers it is the
textbook's

    l_k = l_(k-1) + (f_k - 1) * product of the strides before k

(l: field of view, f: kernel; see Araujo, Norris & Sim 2019, "Computing receptive fields of convolutional neural networks",
Distill). Trace networks with `train=False`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.errors import UserError
from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import Interval
from cnnjax.inspection.propagation import Value, propagate, unknown


class FieldOfView(NamedTuple):
    """What the positions of an output see along one spatial axis of the input, in input positions.

    Attributes:
      size: how many a position sees, as if the input went on beyond its borders (zero padding counts); of several channels
        or positions with different intervals the most. Where that law does not hold (resizing, reflection, gates): the most
        within the input.
      stride: from one output position to the next ("effective stride" or "jump"); the mean where it is not constant; None
        where there is one position.
      padding: how far the first position reaches beyond the input's first ("effective padding"); None where no law holds.
      offset: the centre of what the first position sees, counted from the middle of the input's first position.
      low, high: of every output position the first and last input position that it sees, borders reckoned in. A
        position that sees nothing has low > high.
    """

    size: int
    stride: float | None
    padding: int | None
    offset: float | None
    low: np.ndarray
    high: np.ndarray


def field_of_view(function, *inputs: Any, cut_gates: bool = False, axes: Sequence[int] | None = None):
    """The fields of view of a function's one output, a tuple with one for each spatial axis of its first input.

    Args:
      inputs: arrays, or `jax.ShapeDtypeStruct`s. The first is the image `[B, *spatial, C]`; all others (trees of
        parameters) are taken for numbers that are not zero, and so are arrays of floats that the function closes over.
      cut_gates: leave out factors and terms that see the same at all positions, beside what moves over the image:
        squeeze-and-excite gates and GroupNorm's statistics see it whole.
      axes: which axes of the first input are spatial; by default all between first and last.

    Raises:
      UserError: a primitive or index whose effect is not known (it is named), no spatial path, or no such axis.
    """
    result = fields_of_view(function, *inputs, cut_gates=cut_gates, axes=axes)
    if not isinstance(result, tuple) or not all(isinstance(view, FieldOfView) for view in result):
        raise UserError("field_of_view takes a function with one output array: use fields_of_view for several.")
    if all((view.low > view.high).all() for view in result):
        raise UserError("There is no spatial path: the output does not depend on the positions of the first input.")
    return result


def fields_of_view(function, *inputs: Any, cut_gates: bool = False, axes: Sequence[int] | None = None):
    """As `field_of_view` for a function whose output is a tree of arrays: the same tree of tuples of FieldOfView."""
    shape = tuple(inputs[0].shape)
    axes = tuple(range(1, len(shape) - 1) if axes is None else axes)
    if not axes:
        raise UserError(f"There is no spatial axis in an input of shape {shape}: it must be [B, *spatial, C].")
    for axis in axes:
        if not 0 <= axis < len(shape):
            raise UserError(
                f"There is no axis {axis} in an input of shape {shape}: axes count from 0 to {len(shape) - 1}."
            )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(*shapes)
    arguments = [unknown(leaf.shape) for leaf in jax.tree.leaves(shapes)]
    arguments[0] = Value(shape, tuple(intervals.of_input(len(shape), axis, shape[axis]) for axis in axes))
    values = propagate(closed, arguments, cut_gates)
    leaves, tree = jax.tree.flatten(outputs)
    views = [_views(value, axes, shape) for value in values]
    return jax.tree.unflatten(tree, views)


def _views(value: Value, axes: Sequence[int], shape: tuple[int, ...]) -> tuple[FieldOfView, ...]:
    nothing = intervals.nothing(len(value.shape))
    sees = value.sees or (nothing,) * len(axes)
    return tuple(_view(i, value.shape, axis, len(shape), shape[axis]) for i, axis in zip(sees, axes))


def _view(interval: Interval, shape: tuple[int, ...], axis: int, input_rank: int, size: int) -> FieldOfView:
    """Of an output along one axis of the input: over the same axis of the output where it has one, else in all."""
    rank = len(shape)
    along = axis if rank == input_rank else None
    varying = [a for a in range(rank) if interval.low.shape[a] > 1 or interval.high.shape[a] > 1]
    if along is not None and along not in varying and len(varying) == 1:
        (along,) = varying
    others = tuple(a for a in range(rank) if a != along)
    low, high = interval.low.min(others).ravel(), interval.high.max(others).ravel()
    if along is not None:
        low, high = (np.broadcast_to(array, shape[along]) for array in (low, high))
    law = interval.affine
    if law:  # the other axes, those of a flattened output say, are seen together
        gone = [a for a in others if law.moves(a)]
        law = intervals.reduced(Interval(interval.low, interval.high, law), gone, shape).affine if gone else law
        rates = [rate for _, rate in law.coefficients]
        rate = rates[0] if along is not None and rates else 0
    sees = low <= high
    extents = (high - low + 1)[sees]
    most = int(extents.max()) if extents.size else 0
    centres = (low + high)[sees] / 2
    mean = float((centres[-1] - centres[0]) / (len(centres) - 1)) if len(centres) > 1 else None
    low, high = np.where(sees, low, size), np.where(sees, high, -1)
    if not law:
        return FieldOfView(most, mean, None, float(centres[0]) if len(centres) else None, low, high)
    stride = rate if along is not None and rate else None
    return FieldOfView(law.high - law.low + 1, stride, -law.low, (law.low + law.high) / 2, low, high)

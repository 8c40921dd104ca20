"""Which pixels each element of a traced array sees: exact index intervals, and their affine law.

For one axis of the input, `low` and `high` hold the first and last input index that an element depends on. They have the
rank of the array, and length 1 along every axis on which they do not depend, so that a `[B, H, W, C]` map needs H numbers.

Beside these exact intervals, which end at the borders of the input, the textbook's law is kept as long as it holds:
element i sees from `affine.low + sum(coefficient * i)` to `affine.high + ...`, as if the input had no borders.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

NOTHING = 2**40  # where an element sees nothing: low is this, high is minus this


class Affine(NamedTuple):
    """low + sum of coefficient x index, and high likewise, over the array axes that have a coefficient.

    Axes that were merged with others (a window's rows and columns) have a spread instead: along them elements are moved by
    `first` to `last`, in no regular order. It is resolved when that axis is reduced.

    Along `mixed` axes (the channels of branches side by side) elements see different parts: the law is that of the widest, and
    given up when some of them are chosen.
    """

    coefficients: tuple[tuple[int, int], ...]  # (array axis, input positions from one element to the next)
    low: int
    high: int
    spreads: tuple[tuple[int, int, int], ...] = ()  # (array axis, first, last)
    mixed: tuple[int, ...] = ()

    def get(self, axis: int) -> int | None:
        """The coefficient of an axis; None where it has none."""
        return dict(self.coefficients).get(axis)

    def spread(self, axis: int) -> bool:
        return any(axis == spread_axis for spread_axis, _, _ in self.spreads)

    def moves(self, axis: int) -> bool:
        return self.spread(axis) or self.get(axis) is not None


class Interval(NamedTuple):
    """What the elements of an array see of one axis of the input."""

    low: np.ndarray
    high: np.ndarray
    affine: Affine | None

    @property
    def empty(self) -> bool:
        """Whether the elements depend on nothing; those that see only padding still have a law."""
        return self.affine is None and bool((self.low > self.high).all())

    @property
    def moves(self) -> bool:
        """Whether elements see different parts; by the law, too, where each sees to both borders."""
        return self.low.size > 1 or self.high.size > 1 or bool(self.affine and self.affine.coefficients)


def nothing(rank: int) -> Interval:
    """Of an array that does not depend on the input."""
    return Interval(np.full((1,) * rank, NOTHING), np.full((1,) * rank, -NOTHING), None)


def of_input(rank: int, axis: int, size: int) -> Interval:
    """Of the input itself: each element sees its own position."""
    positions = np.arange(size).reshape([-1 if a == axis else 1 for a in range(rank)])
    return Interval(positions, positions, Affine(((axis, 1),), 0, 0))


def union(intervals: Iterable[Interval], rank: int, cut_gates: bool = False) -> Interval:
    """What any of several arrays of the same shape (or scalars) sees.

    With `cut_gates` an array that sees the same interval at every element is left out beside one whose intervals move:
    it weighs the map as a whole, as the gate of squeeze-and-excite or the statistics of GroupNorm do.
    """
    seen = [i for i in intervals if not i.empty]
    if not seen:
        return nothing(rank)
    seen = [i if i.low.ndim == rank else scalar(i, rank) for i in seen]
    if cut_gates and (moving := [i for i in seen if i.moves]):
        seen = moving
    low, high, affine = seen[0]
    for other in seen[1:]:
        low, high = np.minimum(low, other.low), np.maximum(high, other.high)
        affine = joint_law(affine, other.affine)
    return Interval(low, high, affine)


def joint_law(a: Affine | None, b: Affine | None) -> Affine | None:
    """The law of two arrays together; None where they move differently."""
    if not a or not b or a.coefficients != b.coefficients:
        return None
    mixed = tuple(sorted({*a.mixed, *b.mixed}))
    if a.spreads == b.spreads:
        return a._replace(low=min(a.low, b.low), high=max(a.high, b.high), mixed=mixed)
    for inner, outer in ((a, b), (b, a)):  # wherever the one moves to, the other sees that anyway
        if not outer.spreads:
            low = inner.low + sum(before for _, before, _ in inner.spreads)
            high = inner.high + sum(after for _, _, after in inner.spreads)
            if outer.low <= low and high <= outer.high:
                return outer._replace(mixed=mixed)
    return None


def scalar(interval: Interval, rank: int) -> Interval:
    """Of a scalar that is combined with an array."""
    return Interval(interval.low.reshape((1,) * rank), interval.high.reshape((1,) * rank), interval.affine)


def collapsed(low: np.ndarray, high: np.ndarray, affine: Affine | None) -> Interval:
    """The same with length 1 along every axis on which nothing changes."""
    for axis in range(low.ndim):
        first = np.take(low, [0], axis), np.take(high, [0], axis)
        if low.shape[axis] > 1 and (low == first[0]).all() and (high == first[1]).all():
            low, high = first
    return Interval(low, high, affine)


def full(interval: Interval, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Low and high for every element."""
    return np.broadcast_to(interval.low, shape), np.broadcast_to(interval.high, shape)


def reduced(interval: Interval, axes: Sequence[int], shape: Sequence[int]) -> Interval:
    """After a reduction over axes, which are gone then."""
    axes = tuple(axes)
    low, high, affine = interval.low.min(axis=axes), interval.high.max(axis=axes), interval.affine
    if affine:
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        first, last = affine.low, affine.high
        for axis, step in affine.coefficients:
            if axis in axes:
                first, last = first + min(0, step * (shape[axis] - 1)), last + max(0, step * (shape[axis] - 1))
        for axis, before, after in affine.spreads:
            if axis in axes:
                first, last = first + before, last + after
        moved = tuple((kept.index(axis), step) for axis, step in affine.coefficients if axis in kept)
        spreads = tuple((kept.index(axis), *ends) for axis, *ends in affine.spreads if axis in kept)
        affine = Affine(moved, first, last, spreads, tuple(kept.index(axis) for axis in affine.mixed if axis in kept))
    return Interval(low, high, affine)


def placed(interval: Interval, axes: Sequence[int], rank: int) -> Interval:
    """After a transposition or broadcast: axis i of the array becomes axis `axes[i]` of one of the given rank."""
    shape = [1] * rank
    for old, new in enumerate(axes):
        shape[new] = interval.low.shape[old]
    order = np.argsort(axes)
    arrays = [array.transpose(order).reshape(shape) for array in (interval.low, interval.high)]
    affine = interval.affine
    if affine:
        coefficients = tuple(sorted((axes[a], step) for a, step in affine.coefficients))
        affine = affine._replace(
            coefficients=coefficients,
            spreads=tuple(sorted((axes[a], *ends) for a, *ends in affine.spreads)),
            mixed=tuple(sorted(axes[a] for a in affine.mixed)),
        )
    return Interval(*arrays, affine)


def unmoved(interval: Interval, axes: Sequence[int]) -> Interval:
    """Of an array whose single element along each of some axes is about to be repeated: its law does not move there."""
    law = interval.affine
    if law and any(law.spread(axis) for axis in axes):
        law = None
    if law:
        law = law._replace(coefficients=tuple((axis, rate) for axis, rate in law.coefficients if axis not in axes))
    return interval._replace(affine=law)


def indexed(interval: Interval, axis: int, start: int, stop: int, step: int = 1) -> Interval:
    """After `[start:stop:step]` along an axis; a negative step reads backwards from `start` down to `stop`, included."""
    low, high, affine = interval
    if low.shape[axis] > 1:
        positions = np.arange(start, stop, step) if step > 0 else np.arange(start, stop - 1, step)
        low, high = np.take(low, positions, axis), np.take(high, positions, axis)
    if affine and (affine.spread(axis) or axis in affine.mixed):
        affine = None
    elif affine and (rate := affine.get(axis)) is not None:
        coefficients = tuple((a, r * step if a == axis else r) for a, r in affine.coefficients)
        affine = Affine(coefficients, affine.low + rate * start, affine.high + rate * start, *affine[3:])
    return Interval(low, high, affine)


def windowed(
    interval: Interval,
    axis: int,
    size: int,
    positions: int,
    taps: Sequence[int],
    stride: int = 1,
    padding: int = 0,
    base_dilation: int = 1,
) -> Interval:
    """After a window moved along an axis: position o sees the elements o * stride - padding + tap.

    Args:
      size: of the axis before; `positions`: of the axis after.
      taps: the places within the window that count (dilation reckoned in).
      base_dilation: elements stand so far apart, with zeros between them (a transposed convolution).
    """
    low, high, affine = interval
    where = np.arange(positions)[:, None] * stride - padding + np.asarray(taps)[None]
    valid = (where >= 0) & (where < (size - 1) * base_dilation + 1) & (where % base_dilation == 0)
    if low.shape[axis] > 1 or high.shape[axis] > 1 or not valid.any(1).all():
        low, high = (np.broadcast_to(a, [size if n == axis else s for n, s in enumerate(a.shape)]) for a in (low, high))
        elements = np.clip(where // base_dilation, 0, size - 1)
        beside = [-1 if n == axis else 1 for n in range(low.ndim)]
        lows, highs = [], []
        for tap in range(len(taps)):
            there = valid[:, tap].reshape(beside)
            lows.append(np.where(there, np.take(low, elements[:, tap], axis), NOTHING))
            highs.append(np.where(there, np.take(high, elements[:, tap], axis), -NOTHING))
        low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
    if affine and (affine.spread(axis) or axis in affine.mixed):
        affine = None
    elif affine and (rate := affine.get(axis)) is not None:
        ends = [(tap - padding) * rate for tap in (min(taps), max(taps))]
        coefficients = tuple((a, r * stride if a == axis else r) for a, r in affine.coefficients)
        law = Affine(coefficients, affine.low + min(ends), affine.high + max(ends), *affine[3:])
        affine = law if base_dilation == 1 else None
    return Interval(low, high, affine)


def reshaped(interval: Interval, old: Sequence[int], new: Sequence[int]) -> Interval:
    """After a reshape from one shape to another."""
    if tuple(old) == tuple(new):
        return interval
    low, high, affine = interval
    between, target = [1] * len(old), [1] * len(new)
    coefficients, spreads, mixed, law_holds = {}, [], [], affine is not None
    for old_axes, new_axes in _groups(old, new):
        varies = any(a.shape[axis] > 1 for a in (low, high) for axis in old_axes)
        for axis in old_axes if varies else ():
            between[axis] = old[axis]
        for axis in new_axes if varies else ():
            target[axis] = new[axis]
        if affine:
            mixed += new_axes if set(old_axes) & set(affine.mixed) else []
            rate = _flat_rate(affine, old_axes, old)
            if rate is not None:
                for n, axis in enumerate(new_axes):
                    if rate:
                        coefficients[axis] = rate * math.prod(new[a] for a in new_axes[n + 1 :])
            else:  # no regular order: only where the axes become a single one is it known what they span together
                law_holds &= len(new_axes) == 1
                spreads.append((new_axes[0], *_span(affine, old_axes, old)))
    low, high = (np.broadcast_to(a, between).reshape(target) for a in (low, high))
    law = None
    if affine and law_holds:
        law = Affine(tuple(sorted(coefficients.items())), affine.low, affine.high, tuple(sorted(spreads)), tuple(mixed))
    return collapsed(low, high, law)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes, before and after, that hold the same elements; axes of length 1 belong to none."""
    before = [axis for axis, size in enumerate(old) if size != 1]
    after = [axis for axis, size in enumerate(new) if size != 1]
    groups = []
    while before or after:
        left, right = [before.pop(0)] if before else [], [after.pop(0)] if after else []
        while (l := math.prod(old[a] for a in left)) != (r := math.prod(new[a] for a in right)):
            left, right = (left + [before.pop(0)], right) if l < r else (left, right + [after.pop(0)])
        groups.append((left, right))
    return groups


def _flat_rate(affine: Affine, axes: Sequence[int], shape: Sequence[int]) -> int | None:
    """Input positions from one element to the next within a group of axes read as one; None where that is no constant."""
    if any(affine.spread(axis) for axis in axes):
        return None
    rates, count = set(), 1
    for axis in reversed(axes):
        if shape[axis] > 1:
            rate = affine.get(axis) or 0
            rates.add(rate // count if rate % count == 0 else None)
        count *= shape[axis]
    return rates.pop() if len(rates) == 1 else (None if rates else 0)


def _span(affine: Affine, axes: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """By how much at least and at most elements are moved along a group of axes."""
    first = last = 0
    for axis in axes:
        reach = (affine.get(axis) or 0) * (shape[axis] - 1)
        first, last = first + min(0, reach), last + max(0, reach)
    for axis, before, after in affine.spreads:
        if axis in axes:
            first, last = first + before, last + after
    return first, last

"""The table of rules, and what they share."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import NOTHING, Interval
from cnnjax.inspection.propagation import Value

RULES: dict[str, Callable] = {}


def rule(*names: str) -> Callable:
    """Registers `function(equation, inputs, cut_gates) -> outputs` for primitives of these names."""

    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def output(eqn, sees: Iterable[Interval], n: int = 0) -> Value:
    """The n-th output of an equation, with what it sees of each spatial axis."""
    return Value(tuple(eqn.outvars[n].aval.shape), tuple(sees))


def spatial_axes(inputs: Sequence[Value]) -> range:
    """The spatial axes of the input image, by number."""
    return range(len(next(value.sees for value in inputs if value.sees)))


def masked(interval: Interval, keep: np.ndarray) -> Interval:
    """Where `keep` is off nothing is seen."""
    if keep.all():
        return interval
    low, high = np.where(keep, interval.low, NOTHING), np.where(keep, interval.high, -NOTHING)
    return intervals.collapsed(low, high, None)

"""Walks a traced function and says what every value in it sees of the input. Nothing of the function is computed.

What depends on neither the input nor parameters is evaluated, so that zeros in it (the matrix of a resize, a mask) and
indices made of it are known. Parameters count as not zero.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import numpy as np

from cnnjax.errors import UserError
from cnnjax.inspection import intervals
from cnnjax.inspection.intervals import Interval

LARGEST_KNOWN = 4 * 10**7  # elements: larger constants are taken for unknown ones
LONGEST_SCAN = 10_000  # steps


class UnknownField(UserError):
    """Something whose effect on the field of view is not known."""

    def __init__(self, what: str, place: str):
        super().__init__(f"The field of view is not known: {what}{place}.")
        self.what, self.place = what, place


def refuse(eqn, what: str):
    """Raises UnknownField, with the place of an equation in the code that was traced."""
    raise UnknownField(what, _place(eqn))


class Value(NamedTuple):
    """An array of a traced function."""

    shape: tuple[int, ...]
    sees: tuple[Interval, ...] | None  # of each spatial axis of the input; None: it does not depend on the input
    known: np.ndarray | None = None  # its elements, where they depend on nothing


def constant(array: Any) -> Value:
    """A value whose elements are known."""
    if jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.extended):  # random keys
        return unknown(array.shape)
    array = np.asarray(array)
    return Value(array.shape, None, array if array.size <= LARGEST_KNOWN else None)


def closed_over(array: Any) -> Value:
    """A value that a function brings along: floats may be parameters, and count as not zero."""
    value = constant(array)
    trainable = jax.dtypes.issubdtype(getattr(array, "dtype", np.int32), np.inexact)
    return value._replace(known=None) if trainable else value


def unknown(shape: Sequence[int]) -> Value:
    """A value that does not depend on the input, with elements that are taken to be not zero."""
    return Value(tuple(shape), None)


def seen_by(value: Value, axis: int) -> Interval:
    """What a value sees of one axis of the input."""
    return value.sees[axis] if value.sees else intervals.nothing(len(value.shape))


def propagate(closed: core.ClosedJaxpr, arguments: Sequence[Value], cut_gates: bool = False) -> list[Value]:
    """The outputs of a traced function for given arguments.

    Raises:
      UnknownField: what a primitive does to the field of view is not known; names it and where it stands.
    """
    from cnnjax.inspection.rules import RULES

    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, map(closed_over, closed.consts))) | dict(zip(jaxpr.invars, arguments))
    read = lambda atom: constant(atom.val) if isinstance(atom, core.Literal) else values[atom]
    for eqn in jaxpr.eqns:
        inputs, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        if name in CONTROL:
            try:
                outputs = CONTROL[name](eqn, inputs, cut_gates)
            except UnknownField as error:  # of what JAX compiles by itself only the call has a place
                raise error if error.place else UnknownField(error.what, _place(eqn)) from None
        elif not any(value.sees for value in inputs):
            outputs = _evaluated(eqn, inputs)
        elif name in RULES:
            outputs = RULES[name](eqn, inputs, cut_gates)
        else:
            refuse(eqn, f"there is no rule for the primitive {name!r}")
        values |= dict(zip(eqn.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _evaluated(eqn, inputs: list[Value]) -> list[Value]:
    """The outputs of an equation that does not see the input: evaluated where all that it takes is known."""
    shapes = [getattr(var.aval, "shape", ()) for var in eqn.outvars]
    if all(value.known is not None for value in inputs) and all(math.prod(s) <= LARGEST_KNOWN for s in shapes):
        if all(map(_plain, eqn.outvars)):
            results = eqn.primitive.bind(*(jax.numpy.asarray(v.known) for v in inputs), **eqn.params)
            return [constant(r) for r in (results if eqn.primitive.multiple_results else [results])]
    return [unknown(shape) for shape in shapes]


def _plain(var) -> bool:
    """Whether a variable is an array of numbers: no random key, no token."""
    return isinstance(getattr(var.aval, "dtype", None), np.dtype)


def _place(eqn) -> str:
    """' at model.py:12, in Net/conv1': where an equation stands in the code that was traced."""
    frames = eqn.source_info.traceback.frames if eqn.source_info.traceback else ()
    own = [f for f in frames if not any(part in f.file_name for part in ("/jax/", "/flax/", "/jaxlib/", "<"))]
    where = f" at {own[0].file_name.rsplit('/', 1)[-1]}:{own[0].line_num}" if own else ""
    stack = str(eqn.source_info.name_stack)
    return where + (f", in {stack}" if stack else "")


# --- Functions within functions ---------------------------------------------------------------------------------------


def _call(eqn, inputs, cut_gates):
    """`jit`, `remat`, `custom_jvp` and `custom_vjp`: the function inside."""
    params = eqn.params
    inner = next(params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params)
    closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
    return propagate(closed, inputs, cut_gates)


def _joined(results: list[list[Value]], also: Sequence[Value] = ()) -> list[Value]:
    """Outputs that may be those of any of several functions, and depend on some scalars besides."""
    joined = []
    for several in zip(*results):
        seeing = [value for value in (*several, *also) if value.sees]
        if not seeing:
            joined.append(unknown(several[0].shape))
            continue
        rank, axes = len(several[0].shape), len(seeing[0].sees)
        sees = tuple(intervals.union((v.sees[axis] for v in seeing), rank) for axis in range(axes))
        joined.append(Value(several[0].shape, sees))
    return joined


def _cond(eqn, inputs, cut_gates):
    which, *rest = inputs
    branches = eqn.params["branches"]
    if which.known is not None:
        branches = [branches[int(np.clip(which.known, 0, len(branches) - 1))]]
    results = [propagate(branch, rest, cut_gates) for branch in branches]
    return results[0] if len(results) == 1 else _joined(results, [which])


def _scan(eqn, inputs, cut_gates):
    """Step by step: each sees its own slice of what is scanned."""
    p = eqn.params
    length = p["length"]
    if "num_consts" in p:
        fixed, carried = p["num_consts"], p["num_carry"]
    else:  # JAX 0.11
        fixed, carried, _ = map(len, p["ft_in"].unpack())
    if length > LONGEST_SCAN:
        refuse(eqn, f"a scan of {length:,} steps is too long")
    consts, carry, scanned = inputs[:fixed], inputs[fixed : fixed + carried], inputs[fixed + carried :]
    stacked: list[list[Value]] = [None] * length
    for step in range(length)[:: -1 if p["reverse"] else 1]:
        outputs = propagate(p["jaxpr"], [*consts, *carry, *(_element(value, step) for value in scanned)], cut_gates)
        carry, stacked[step] = outputs[:carried], outputs[carried:]
    shapes = [var.aval.shape for var in eqn.outvars[carried:]]
    return [*carry, *(_stack([row[n] for row in stacked], shape) for n, shape in enumerate(shapes))]


def _element(value: Value, index: int) -> Value:
    """value[index]."""
    known = None if value.known is None else value.known[index]
    if not value.sees:
        return Value(value.shape[1:], None, known)
    first = (intervals.indexed(i, 0, index, index + 1) for i in value.sees)
    return Value(value.shape[1:], tuple(intervals.reduced(i, (0,), (1, *value.shape[1:])) for i in first))


def _stack(values: list[Value], shape: Sequence[int]) -> Value:
    if not any(value.sees for value in values):
        known = np.stack([v.known for v in values]) if values and all(v.known is not None for v in values) else None
        return Value(tuple(shape), None, known)
    axes = len(next(value.sees for value in values if value.sees))
    sees = []
    for axis in range(axes):
        parts = [intervals.full(seen_by(value, axis), value.shape) for value in values]
        sees.append(intervals.collapsed(np.stack([low for low, _ in parts]), np.stack([h for _, h in parts]), None))
    return Value(tuple(shape), tuple(sees))


def _while(eqn, inputs, cut_gates):
    if any(value.sees for value in inputs):
        refuse(eqn, "a while loop may run any number of times")
    return [unknown(var.aval.shape) for var in eqn.outvars]


CONTROL = {"cond": _cond, "scan": _scan, "while": _while} | dict.fromkeys(
    ["pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call",
     "custom_vjp_call_jaxpr", "custom_lin"], _call)  # fmt: skip

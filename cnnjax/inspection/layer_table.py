"""A network as a table: a row for each layer with its activations, learnables, work, memory and field of view.

Counting conventions. Everything is for one example. Parameters are what training learns (`params`); running statistics are
not. Multiply-accumulates (MACs) are those of convolutions and matrix products, positions in the padding included; one MAC
is two FLOPs. Additions of biases, normalisation, activation, pooling and gates are not counted, as usual. Memory is that of
the row's output in its own type.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from cnnjax.inspection.field_of_view import FieldOfView, fields_of_view
from cnnjax.inspection.jaxprs import inner_jaxprs


class Row(NamedTuple):
    """One layer, at one call."""

    name: str  # its path in the network: stage1_block1/conv2
    type: str
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]  # of its output, [B, *spatial, C]
    learnables: dict[str, tuple[int, ...]]  # shape by name; of a layer that is called again: none
    parameters: int
    macs: int
    memory: int  # bytes
    field_of_view: tuple[FieldOfView, ...] | None  # one for each spatial axis of the input; None: it cannot be said


class Table(NamedTuple):
    """All rows, in the order of the calls, and what stands below them."""

    rows: tuple[Row, ...]
    parameters: int
    macs: int
    memory: int  # bytes
    input_shape: tuple[int, ...]
    unknown: str  # why there are no fields of view; empty where there are


def layer_table(module: nn.Module, *inputs: Any, cut_gates: bool = False, **kwargs: Any) -> Table:
    """The table of any linen Module. Nothing is computed and no weights are needed: shapes are enough.

    Args:
      inputs: arrays or `jax.ShapeDtypeStruct`s; the first is `[B, *spatial, C]`, for figures of one example with B = 1.
      cut_gates: leave gates made of the whole picture (squeeze-and-excite) out of the fields of view.
      kwargs: what else the Module is called with, `train=False` say.

    Raises:
      DoesNotFit: the input is too small.
    """
    variables = jax.eval_shape(lambda *x: meta.unbox(module.init(jax.random.key(0), *x, **kwargs)), *inputs)
    calls: list[_Call] = []

    def outputs(image, rest, variables):
        """{number of the call: its output}, and the network's own."""
        calls.clear()
        with nn.intercept_methods(_recorder(calls)):
            result, state = module.apply(
                variables, image, *rest, **kwargs, mutable=["intermediates"], capture_intermediates=_is_call
            )
        captured = {n: _captured(state["intermediates"], call) for n, call in enumerate(calls)}
        return {n: value for n, value in captured.items() if value is not None}, result

    closed, shapes = jax.make_jaxpr(outputs, return_shape=True)(inputs[0], inputs[1:], variables)
    learnables = _learnables(variables.get("params", {}))
    shown = [n for n, call in enumerate(calls) if n in shapes[0] and (call.leaf or call.path in learnables)]
    macs = _macs_by_path(closed.jaxpr, type(module).__name__, {calls[n].path for n in shown})

    def only(image, rest, variables):
        captured = outputs(image, rest, variables)[0]
        return {n: captured[n] for n in shown}

    fields, unknown = _fields(only, inputs, variables, cut_gates)
    rows, seen = [], set()
    for n in shown:
        call, output = calls[n], shapes[0][n]
        first = (
            call.path not in seen
        )  # a layer that is called again has no more weights; its MACs stand in the first row
        seen.add(call.path)
        own = learnables.get(call.path, {}) if first else {}
        rows.append(
            Row(
                name="/".join(call.path) or type(module).__name__,
                type=call.type,
                input_shape=call.input_shape,
                shape=output.shape,
                learnables=own,
                parameters=sum(map(math.prod, own.values())),
                macs=macs.get(call.path, 0) if first else 0,
                memory=math.prod(output.shape) * jnp.dtype(output.dtype).itemsize,
                field_of_view=fields.get(n),
            )
        )
    total = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    memory = sum(row.memory for row in rows)
    return Table(tuple(rows), total, sum(macs.values()), memory, tuple(inputs[0].shape), unknown)


def output_of(module: nn.Module, variables: Any, name: str, image: jax.Array, **kwargs: Any) -> jax.Array:
    """What the layer of a name, as it stands in the table, gives for an image."""
    state = module.apply(variables, image, **kwargs, mutable=["intermediates"], capture_intermediates=_is_call)[1][
        "intermediates"
    ]
    path = () if name == type(module).__name__ and name not in state else tuple(name.split("/"))
    return _captured(state, _Call(path, "", 0, True, ()))


class _Call(NamedTuple):
    path: tuple[str, ...]
    type: str
    index: int  # 0 for the first call of this layer
    leaf: bool  # it calls no other layer
    input_shape: tuple[int, ...]


def _is_call(module: nn.Module, method: str) -> bool:
    return method == "__call__"


def _recorder(calls: list) -> Callable:
    """An interceptor that notes every call of a Module, in the order in which they end."""
    parents: list[tuple[str, ...]] = []  # of whom some layer was called

    def interceptor(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = context.module.path
        before = len(parents)
        result = call(*args, **kwargs)
        leaf = len(parents) == before
        parents.append(path)
        index = sum(known.path == path for known in calls)
        given = next(iter([*args, *kwargs.values()]), None)
        shape = tuple(getattr(given, "shape", ()))
        calls.append(_Call(path, type(context.module).__name__, index, leaf, shape))
        return result

    return interceptor


def _captured(intermediates: Any, call: _Call) -> Any:
    """The output of a call; None where Flax did not keep it, or where it is no single array."""
    for name in call.path:
        if name not in intermediates:
            return None
        intermediates = intermediates[name]
    values = intermediates.get("__call__", ())
    value = values[call.index] if call.index < len(values) else None
    return value if hasattr(value, "shape") else None


def _learnables(params: Any) -> dict[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """The shapes of parameters by the path of the layer that owns them."""
    owners: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *owner, name = (jax.tree_util.keystr((key,), simple=True) for key in path)
        owners.setdefault(tuple(owner), {})[name] = tuple(leaf.shape)
    return owners


def _fields(function, inputs, variables, cut_gates) -> tuple[dict[int, Any], str]:
    """Fields of view by the number of the call, or why there are none."""
    from cnnjax.errors import UserError

    try:
        return fields_of_view(function, inputs[0], inputs[1:], variables, cut_gates=cut_gates), ""
    except UserError as error:
        return {}, str(error)


def _macs_by_path(jaxpr, root: str, paths: set[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """Multiply-accumulates of a traced network, each given to the innermost of the layers at `paths` that it lies in."""
    found: dict[tuple[str, ...], int] = {}

    def walk(jaxpr, prefix: tuple[str, ...], times: int) -> None:
        for eqn in jaxpr.eqns:
            stack = prefix + tuple(part for part in str(eqn.source_info.name_stack).split("/") if part)
            if count := macs_of(eqn):
                path = stack[stack.index(root) + 1 :] if root in stack else stack
                # What JAX adds, jvp(...), and calls of methods other than __call__, layer.method, are no layers.
                path = tuple(part for part in path if "(" not in part and "." not in part)
                while path and path not in paths:
                    path = path[:-1]
                found[path] = found.get(path, 0) + times * count
            repeated = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            for inner in inner_jaxprs(eqn):
                walk(inner, stack, times * repeated)

    walk(jaxpr, (), 1)
    return found


def macs_of(eqn) -> int:
    """Multiply-accumulates of one equation; 0 where it is neither convolution nor matrix product."""
    out = eqn.outvars[0].aval.shape if eqn.outvars else ()
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        zeros = math.prod(
            eqn.params["lhs_dilation"]
        )  # of a transposed convolution: most products are with inserted zeros
        return math.prod(out) * (math.prod(kernel) // out_channels) // zeros
    if eqn.primitive.name == "dot_general":
        contracted, _ = eqn.params["dimension_numbers"]
        return math.prod(out) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted[0])
    return 0

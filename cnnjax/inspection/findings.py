"""What is wrong, or odd, about a network before it is trained."""

from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as core
import jax.numpy as jnp
from flax.core import meta

from cnnjax.errors import DoesNotFit, UserError
from cnnjax.inspection.jaxprs import inner_jaxprs
from cnnjax.inspection.layer_table import Table

LARGEST_SIDE = 4096  # pixels: where the search for the least input size gives up


def findings(table: Table, module: nn.Module, *inputs: Any, training: dict | None = None, **kwargs: Any) -> list[str]:
    """A line for each: dropped pixels, layers that see more than the input, windows over padding alone, dead parameters.

    Args:
      kwargs: as for `layer_table`.
      training: what the Module is called with in training, `dict(train=True)` say; by default `kwargs`.
    """
    return [
        *dropped_pixels(table),
        *windows_over_padding(table),
        *wide_fields(table),
        *(f"The parameter {name} has no effect: its gradient is always zero." for name in
          dead_parameters(module, *inputs, **(kwargs if training is None else training))),
    ]  # fmt: skip


def gates(table: Table, without_gates: Table) -> list[str]:
    """Where gates made of the whole picture widen the fields of view, and what these are without them."""
    pairs = [
        (whole, cut)
        for whole, cut in zip(table.rows, without_gates.rows)
        if whole.field_of_view and cut.field_of_view and len(whole.shape) == len(table.input_shape)
    ]
    widened = [(whole, cut) for whole, cut in pairs if whole.field_of_view[0].stride != cut.field_of_view[0].stride]
    if not widened:
        return []
    (first, _), (last, cut) = widened[0], widened[-1]
    views = "x".join(str(view.size) for view in cut.field_of_view)
    return [
        f"From {first.name} on gates (squeeze-and-excite) see the whole picture. Without them the field of view is "
        f"{views} at {last.name}: --gates=cut shows it for every layer."
    ]


def dropped_pixels(table: Table) -> list[str]:
    """Layers after which pixels of the input are seen by no position any more, though they were before."""
    lines, axes = [], len(table.input_shape) - 2
    covered = [(0, size - 1) for size in table.input_shape[1:-1]]
    rows = [row for row in table.rows if row.field_of_view and len(row.shape) == len(table.input_shape)]
    ends = [[(int(view.low.min()), int(view.high.max())) for view in row.field_of_view] for row in rows]
    for n, row in enumerate(rows):
        for axis in range(axes):
            first, last = covered[axis]
            # A branch that sees less (a cropped skip connection) is no loss while a layer after it still sees all.
            low, high = min(end[axis][0] for end in ends[n:]), max(end[axis][1] for end in ends[n:])
            lost = [(f"first {low - first}", low > first), (f"last {last - high}", high < last)]
            if len(row.input_shape) == len(row.shape) and row.shape[1 + axis] < row.input_shape[1 + axis]:
                lines += [
                    f"{row.name} drops the {text} of {table.input_shape[1 + axis]} input positions along axis {1 + axis}: "
                    f"its windows do not reach them."
                    for text, there in lost
                    if there
                ]
                covered[axis] = (max(first, low), min(last, high))
    return lines


def windows_over_padding(table: Table) -> list[str]:
    """Convolutions wider than one over maps of a single position: all taps but one see padding alone."""
    lines = []
    for row in table.rows:
        kernel = row.learnables.get("kernel", ())
        if len(kernel) == len(row.input_shape) > 2:
            window, sizes = kernel[:-2], row.input_shape[1:-1]
            if any(w > 1 and n == 1 for w, n in zip(window, sizes)):
                shape = "x".join(map(str, window))
                lines.append(
                    f"{row.name} moves a {shape} kernel over a map of one position: the rest of it sees padding."
                )
    return lines


def wide_fields(table: Table) -> list[str]:
    """From which layer on every position's field of view is larger than the input."""
    sizes = table.input_shape[1:-1]
    wide = [
        row
        for row in table.rows
        if row.field_of_view
        and len(row.shape) == len(table.input_shape)
        and all(view.size > size for view, size in zip(row.field_of_view, sizes))
    ]
    if not wide:
        return []
    first, shape = wide[0], "x".join(map(str, sizes))
    views = "x".join(str(view.size) for view in first.field_of_view)
    return [
        f"From {first.name} on ({len(wide)} layers) the field of view, there {views}, exceeds the input of {shape}."
    ]


def dead_parameters(module: nn.Module, *inputs: Any, **kwargs: Any) -> list[str]:
    """Names of parameters whose gradient is zero whatever the input: unused ones, or cut off by `stop_gradient`."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda *x: meta.unbox(module.init(key, *x, **kwargs)), *inputs)
    params, others = variables.get("params", {}), {k: v for k, v in variables.items() if k != "params"}

    def total(params, others, inputs):
        outputs = module.apply(dict(others, params=params), *inputs, **kwargs, mutable=True, rngs=dict(dropout=key))[0]
        real = (leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating))
        return sum((jnp.sum(leaf**2) for leaf in real), jnp.zeros(()))

    closed = jax.make_jaxpr(jax.grad(total))(params, others, inputs)
    reached = depends(closed.jaxpr, [True] * len(closed.jaxpr.invars))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, used in zip(paths, reached) if not used]


def depends(jaxpr: core.Jaxpr, inputs: list[bool]) -> list[bool]:
    """Which outputs depend on any of the inputs that are marked."""
    known = dict(zip(jaxpr.invars, inputs)) | {var: False for var in jaxpr.constvars}
    marked = lambda atom: not isinstance(atom, core.Literal) and known[atom]
    for eqn in jaxpr.eqns:
        arguments = [marked(atom) for atom in eqn.invars]
        inner = list(inner_jaxprs(eqn))
        if len(inner) == 1 and len(inner[0].invars) == len(arguments) and len(inner[0].outvars) == len(eqn.outvars):
            results = depends(inner[0], arguments)
            if eqn.primitive.name == "scan":  # what is carried may come around
                results = [any(arguments)] * len(eqn.outvars)
        else:
            results = [any(arguments)] * len(eqn.outvars)
        known |= dict(zip(eqn.outvars, results))
    return [marked(atom) for atom in jaxpr.outvars]


def least_size(module: nn.Module, input_shape: tuple[int, ...], **kwargs: Any) -> int | None:
    """The smallest side of a square (or cubic) input `[B, *spatial, C]` that a network can take; None: none up to 4,096."""

    def fits(size: int) -> bool:
        shape = (input_shape[0], *(size,) * (len(input_shape) - 2), input_shape[-1])
        try:
            jax.eval_shape(
                lambda x: module.init(jax.random.key(0), x, **kwargs), jax.ShapeDtypeStruct(shape, jnp.float32)
            )
        except (DoesNotFit, UserError):
            return False
        return True

    low, high = 0, 1  # `low` does not fit
    while not fits(high):
        if high >= LARGEST_SIDE:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high

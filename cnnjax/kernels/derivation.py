"""JAX primitives around kernels: computed by a function of our own, differentiated by rules that name other kernels.

A primitive keeps the path (XLA never is one here) among its parameters, so a derivative that is traced later takes the
same. Being primitives with rules, kernels have derivatives of any order in both modes, and go through vmap, scan and
remat, which `jax.custom_vjp` around the same calls would not all allow. On a GPU vmap dissolves a primitive into the JAX
operations inside: what is differentiated or exported after it are those.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.kernels import paths
from cnnjax.kernels.onednn.library import Full, Unsupported


def primitive(name: str, compute: Callable, plain: Callable, multiple_results: bool = False) -> Primitive:
    """A primitive `name` of arrays and hashable parameters.

    Args:
      compute: `(*arrays, **parameters)` -> the result, or a list of them; traced when the primitive is lowered.
      plain: the same in plain JAX operations; gives the shapes of the results, and is what `jax.export` gets, whose
        programs shall run anywhere.
    """
    new = Primitive(f"cnnjax_{name}")
    new.multiple_results = multiple_results

    @partial(jax.jit, static_argnums=0)
    def eager(parameters, *arrays):
        return compute(*arrays, **dict(parameters))

    def shapes(*avals, **parameters):
        structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
        out = jax.eval_shape(partial(plain, **parameters), *structs)
        return jax.tree.map(lambda s: jax.core.ShapedArray(s.shape, s.dtype), out)

    new.def_impl(lambda *arrays, **parameters: eager(tuple(sorted(parameters.items())), *arrays))
    new.def_abstract_eval(shapes)
    here, anywhere = (mlir.lower_fun(function, multiple_results=multiple_results) for function in (compute, plain))

    def lower(context, *arrays, **parameters):
        exported = context.module_context.lowering_parameters.for_export
        return (anywhere if exported else here)(context, *arrays, **parameters)

    mlir.register_lowering(new, lower)
    batching.primitive_batchers[new] = partial(_batched, new, compute)
    return new


def with_onednn(call: Callable, otherwise: Callable) -> Callable:
    """The function `otherwise`, but on oneDNN's `path` `call` (the same arguments without `path`) where it can."""

    def compute(*arrays, path: str, **parameters):
        if path == paths.ONEDNN:
            try:
                return call(*arrays, **parameters)
            except Full as reason:
                paths.say_once(str(reason))
            except Unsupported:
                pass
        return otherwise(*arrays, path=path, **parameters)

    return compute


def _batched(primitive: Primitive, compute: Callable, arrays, axes, **parameters):
    """vmap: on a GPU of the JAX operations inside; elsewhere the elements one after another, each with all cores."""
    if parameters["path"] == paths.GPU:
        out = jax.vmap(partial(compute, **parameters), axes)(*arrays)
        return out, ([0] * len(out) if primitive.multiple_results else 0)
    mapped = [None if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in zip(arrays, axes)]
    fixed = [array if axis is None else None for array, axis in zip(arrays, axes)]

    def one(slices):
        left = iter(slices)
        return primitive.bind(*[next(left) if f is None else f for f in fixed], **parameters)

    out = jax.lax.map(one, [m for m in mapped if m is not None])
    return out, ([0] * len(out) if primitive.multiple_results else 0)


def derive_by_formula(primitive: Primitive, plain: Callable) -> None:
    """Derivatives of the plain formula: for what is differentiated so seldom that its speed does not matter."""

    def jvp(primals, tangents, **parameters):
        real = [jnp.issubdtype(p.dtype, jnp.floating) for p in primals]

        def formula(*values):
            left = iter(values)
            return plain(*[next(left) if r else p for p, r in zip(primals, real)], **parameters)

        pick = lambda values: tuple(v for v, r in zip(values, real) if r)
        return jax.jvp(formula, pick(primals), pick([ad.instantiate_zeros(t) for t in tangents]))

    ad.primitive_jvps[primitive] = jvp

"""Where XLA shall not compute an array anew for each of its uses."""

import jax
import jax.numpy as jnp
from jax import lax


def in_memory(x: jax.Array, unknown: jax.Array | None = None) -> jax.Array:
    """x, computed before anything uses it: XLA fuses through its barriers on a CPU, but not through a conditional.

    Both branches give x. The condition looks at a value of `unknown`, which XLA cannot foresee (x itself, if not given; in
    a forward pass the kernel, so that the field of view does not count the value looked at).
    """
    value = (x if unknown is None else unknown).reshape(-1)[0]
    return lax.cond(value.astype(jnp.float32) < jnp.inf, lambda x: x, lax.optimization_barrier, x)

"""Where XLA shall not compute an array anew for each of its uses."""

import jax
import jax.numpy as jnp
from jax import lax


def in_memory(x: jax.Array) -> jax.Array:
    """x, computed before anything uses it: XLA fuses through its barriers on a CPU, but not through a conditional."""
    return lax.cond(x.reshape(-1)[0].astype(jnp.float32) < jnp.inf, lambda x: x, lax.optimization_barrier, x)

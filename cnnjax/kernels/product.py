"""A matrix product in JAX operations that XLA compiles well on a CPU."""

import jax
from jax import lax

LARGE = 2**16  # numbers; of fewer, turning takes as long as it saves


def product(a: jax.Array, b: jax.Array, turned: tuple[bool, bool]) -> jax.Array:
    """`a @ b`, `[M, K]` and `[K, N]`, each stored the other way round where it is `turned`.

    Where XLA would turn a large matrix, two to seven times as slow, the small one is turned.
    """
    if turned == (False, True) and b.size >= LARGE and b.size > a.size:
        return lax.optimization_barrier(b @ lax.optimization_barrier(a.T)).T
    return (a.T if turned[0] else a) @ (b.T if turned[1] else b)

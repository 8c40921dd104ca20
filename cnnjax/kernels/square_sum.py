"""The sum of an array's squares.

As a product, or a sum, XLA writes all squares to memory on a CPU, and takes two to four times as long.
"""

import jax
from jax import lax

from cnnjax.kernels import paths

TOGETHER = 8  # squares that are added up before anything is written


def square_sum(x: jax.Array) -> jax.Array:
    """Any shape -> []: the sum of x * x."""
    if not paths.computes("sums of squares", x):  # and where x is divided among devices, each keeps to its part
        everything = tuple(range(x.ndim))
        return lax.dot_general(x, x, ((everything, everything), ((), ())), precision="highest")
    flat = x.reshape(-1)
    each = x.size // TOGETHER
    parts = [flat[n * each : (n + 1) * each] for n in range(TOGETHER)]
    left = flat[TOGETHER * each :]
    return sum(part * part for part in parts).sum() + (left * left).sum()

"""The product of activations and a matrix of weights."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.derivation import primitive
from cnnjax.kernels.onednn import calls
from cnnjax.kernels.onednn.library import Unsupported

TYPES = (jnp.float32, jnp.bfloat16)


def dense(lhs: jax.Array, rhs: jax.Array, dimension_numbers, precision=None, preferred_element_type=None) -> jax.Array:
    """`jax.lax.dot_general`, same arguments and values, on the path of `paths.using`.

    oneDNN serves `[..., K]` times `[K, N]` in float32 and bfloat16; all else is XLA's.
    """
    (contracted, batch) = dimension_numbers
    usual = (
        paths.current() == paths.ONEDNN
        and lhs.dtype in TYPES
        and lhs.dtype == rhs.dtype
        and preferred_element_type in (None, lhs.dtype)
        and tuple(map(tuple, contracted)) == ((lhs.ndim - 1,), (0,))
        and not any(map(len, batch))
        and rhs.ndim == 2
        and 0 not in (*lhs.shape, *rhs.shape)
    )
    if not usual:
        return lax.dot_general(
            lhs, rhs, dimension_numbers, precision=precision, preferred_element_type=preferred_element_type
        )
    rows = lhs.reshape(-1, lhs.shape[-1])
    return product_p.bind(rows, rhs, turned=(False, False)).reshape(*lhs.shape[:-1], -1)


def _plain(a, b, *, turned: tuple[bool, bool]) -> jax.Array:
    return (a.T if turned[0] else a) @ (b.T if turned[1] else b)


def _compute(a, b, *, turned: tuple[bool, bool]) -> jax.Array:
    try:
        return calls.product(a, b, *turned)
    except Unsupported:
        return _plain(a, b, turned=turned)


product_p = primitive("product", _compute, _plain)


def _of_first(ct, a, b, *, turned):
    """y = a b: da = dy b^T; of a that is stored turned: da = b dy^T."""
    ta, tb = turned
    return product_p.bind(b, ct, turned=(tb, True)) if ta else product_p.bind(ct, b, turned=(False, not tb))


def _of_second(ct, a, b, *, turned):
    """db = a^T dy; of b that is stored turned: db = dy^T a."""
    ta, tb = turned
    return product_p.bind(ct, a, turned=(True, ta)) if tb else product_p.bind(a, ct, turned=(not ta, False))


ad.defbilinear(product_p, _of_first, _of_second)

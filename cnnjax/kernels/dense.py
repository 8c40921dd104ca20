"""The product of activations and a matrix of weights."""

import jax
from jax import lax
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.derivation import primitive, with_onednn
from cnnjax.kernels.onednn import calls
from cnnjax.kernels.product import product


def dense(lhs: jax.Array, rhs: jax.Array, dimension_numbers, precision=None, preferred_element_type=None) -> jax.Array:
    """`jax.lax.dot_general`, same arguments and values, on the path of `paths.using`.

    oneDNN's and the portable path serve `[..., K]` times `[K, N]` in float32 and bfloat16; all else is XLA's.
    """
    (contracted, batch) = dimension_numbers
    usual = (
        paths.computes("products", lhs, rhs)
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
    return product_p.bind(rows, rhs, turned=(False, False), path=paths.current()).reshape(*lhs.shape[:-1], -1)


def _plain(a, b, *, turned: tuple[bool, bool], path: str) -> jax.Array:
    return (a.T if turned[0] else a) @ (b.T if turned[1] else b)


def _portable(a, b, *, turned: tuple[bool, bool], path: str) -> jax.Array:
    return product(a, b, turned)


product_p = primitive("product", with_onednn(calls.product, _portable), _plain)


def _of_first(ct, a, b, *, turned, path):
    """y = a b: da = dy b^T; of a that is stored turned: da = b dy^T."""
    ta, tb = turned
    first, second, turned = (b, ct, (tb, True)) if ta else (ct, b, (False, not tb))
    return product_p.bind(first, second, turned=turned, path=path)


def _of_second(ct, a, b, *, turned, path):
    """db = a^T dy; of b that is stored turned: db = dy^T a."""
    ta, tb = turned
    first, second, turned = (ct, a, (True, ta)) if tb else (a, ct, (not ta, False))
    return product_p.bind(first, second, turned=turned, path=path)


ad.defbilinear(product_p, _of_first, _of_second)

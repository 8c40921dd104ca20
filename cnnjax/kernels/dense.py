"""The product of activations and a matrix of weights."""

import jax
from jax import lax
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.derivation import primitive, with_onednn
from cnnjax.kernels.onednn import calls

LARGE = 2**16  # numbers; of fewer, turning takes as long as it saves


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


def portable_product(a: jax.Array, b: jax.Array, turned: tuple[bool, bool], path: str = paths.PORTABLE) -> jax.Array:
    """`a @ b`, each stored the other way round where it is `turned`, by XLA.

    But where it would turn a large matrix, two to seven times as slow on a CPU, the small one is turned.
    """
    if turned == (False, True) and b.size >= LARGE and b.size > a.size:
        return lax.optimization_barrier(b @ lax.optimization_barrier(a.T)).T
    return _plain(a, b, turned=turned, path=path)


product_p = primitive("product", with_onednn(calls.product, portable_product), _plain)


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

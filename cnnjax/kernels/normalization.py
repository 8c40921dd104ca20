"""Batch normalisation (Ioffe & Szegedy 2015) by the statistics of the batch itself, and its gradient, each in one go."""

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.column_sum import column_sum
from cnnjax.kernels.derivation import derive_by_formula, primitive, with_onednn
from cnnjax.kernels.onednn import calls


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """(y, mean, var) of `[B, *spatial, C]`: y = (x - mean) / sqrt(var + epsilon) * scale + bias, in x's type.

    mean and var (biased) are taken over all axes but the last, in float32, as are scale and bias. None: the path of
    `paths.using` has no kernel for this, and the caller's own operations serve.
    """
    if not paths.computes("batch normalisations", x, scale, bias) or x.ndim > 5 or 0 in x.shape:
        return None
    if scale.dtype != jnp.float32 or bias.dtype != jnp.float32:
        return None
    return tuple(batch_norm_p.bind(x, scale, bias, epsilon=float(epsilon), path=paths.current()))


def _rows(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` -> `[N, C]` in float32."""
    return x.astype(jnp.float32).reshape(-1, x.shape[-1])


def _mean(rows: jax.Array) -> jax.Array:
    """`[N, C]` -> `[C]`."""
    return column_sum(rows) / len(rows)


def _plain(x, scale, bias, *, epsilon: float, path: str):
    rows = _rows(x)
    mean = _mean(rows)
    var = _mean(jnp.square(rows - mean[None]))
    y = (rows - mean[None]) * (scale * jax.lax.rsqrt(var + epsilon))[None] + bias[None]
    return [y.astype(x.dtype).reshape(x.shape), mean, var]


def _plain_gradient(dy, x, mean, var, scale, *, epsilon: float, path: str):
    """(dx, dscale, dbias)."""
    rows, root = _rows(dy), jax.lax.rsqrt(var + epsilon)
    normal = (_rows(x) - mean[None]) * root[None]
    dscale, dbias = column_sum(rows * normal), column_sum(rows)
    dx = (scale * root)[None] * (rows - (dbias[None] + normal * dscale[None]) / len(rows))
    return [dx.astype(x.dtype).reshape(x.shape), dscale, dbias]


def _plain_tangent(tx, tscale, tbias, x, mean, var, scale, *, epsilon: float, path: str):
    """y's tangent: the transpose of `_plain_gradient` in dy."""
    rows, root = _rows(tx), jax.lax.rsqrt(var + epsilon)
    normal = (_rows(x) - mean[None]) * root[None]
    inner = rows - _mean(rows)[None] - normal * _mean(rows * normal)[None]
    ty = (scale * root)[None] * inner + tscale[None] * normal + tbias[None]
    return ty.astype(x.dtype).reshape(x.shape)


_gradient = with_onednn(calls.batch_norm_gradient, _plain_gradient)
batch_norm_p = primitive("batch_norm", with_onednn(calls.batch_norm, _plain), _plain, multiple_results=True)
gradient_p = primitive("batch_norm_gradient", _gradient, _plain_gradient, multiple_results=True)
tangent_p = primitive("batch_norm_tangent", _plain_tangent, _plain_tangent)
derive_by_formula(gradient_p, _plain_gradient)


def _jvp(primals, tangents, **parameters):
    x, scale, bias = primals
    tx, tscale, tbias = map(ad.instantiate_zeros, tangents)
    y, mean, var = batch_norm_p.bind(x, scale, bias, **parameters)
    ty = tangent_p.bind(tx, tscale, tbias, x, mean, var, scale, **parameters)
    rows = _rows(tx)
    tmean, tvar = _mean(rows), 2 * _mean((_rows(x) - mean[None]) * rows)
    return [y, mean, var], [ty, tmean, tvar]


def _tangent_jvp(primals, tangents, **parameters):
    """Linear in the first three alone, which is what the transpose needs; the formula's derivatives otherwise."""
    out = tangent_p.bind(*primals, **parameters)
    if all(type(t) is ad.Zero for t in tangents[3:]):
        linear = map(ad.instantiate_zeros, tangents[:3])
        return out, tangent_p.bind(*linear, *primals[3:], **parameters)
    formula = lambda *values: _plain_tangent(*values, **parameters)
    return jax.jvp(formula, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _tangent_transpose(ct, tx, tscale, tbias, x, mean, var, scale, **parameters):
    return [*gradient_p.bind(ct, x, mean, var, scale, **parameters), None, None, None, None]


ad.primitive_jvps[batch_norm_p] = _jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose

"""Local response normalisation across channels (Krizhevsky, Sutskever & Hinton 2012, 3.3) and its gradient.

y_i = x_i u_i^-beta with u_i = k + alpha * (sum of x_j^2 over n channels around i). The gradient of a cotangent c is
c_i u_i^-beta - 2 alpha beta x_i * (sum over the same channels of c_j x_j u_j^-(beta + 1)), for odd n.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.derivation import derive_by_formula, primitive, with_onednn
from cnnjax.kernels.onednn import calls
from cnnjax.kernels.onednn.library import Unsupported


def local_response_norm(x: jax.Array, *, n: int, k: float, alpha: float, beta: float) -> jax.Array | None:
    """y of `[B, *spatial, C]`, computed in float32. None: the path of `paths.using` has no kernel for this."""
    if not paths.computes("response normalisations", x) or x.ndim > 5 or 0 in x.shape or n % 2 == 0:
        return None
    parameters = dict(n=n, k=float(k), alpha=float(alpha), beta=float(beta), path=paths.current())
    return response_p.bind(x, **parameters)[0]


def _over_channels(t: jax.Array, n: int) -> jax.Array:
    """The sum over the n channels around each."""
    padded = jnp.pad(t, [(0, 0)] * (t.ndim - 1) + [(n // 2, n // 2)])
    return sum(padded[..., j : j + t.shape[-1]] for j in range(n))


def _power(u: jax.Array, beta: float) -> jax.Array:
    """u^-beta; by square roots, which a CPU has, for the paper's exponent."""
    if beta == 0.75:
        root = lax.rsqrt(u)
        return root * jnp.sqrt(root)
    return u**-beta


def _scale(x: jax.Array, n: int, k: float, alpha: float) -> jax.Array:
    return k + alpha * _over_channels(x * x, n)


def _plain(x, *, n: int, k: float, alpha: float, beta: float, path: str):
    wide = x.astype(jnp.float32)
    y = wide * _power(_scale(wide, n, k, alpha), beta)
    return [y.astype(x.dtype), jnp.zeros((_workspace(x, path, n, k, alpha, beta),), jnp.uint8)]


def _workspace(x, path: str, *parameters) -> int:
    """Bytes that the forward pass keeps for the backward one."""
    try:
        return calls.response_workspace(x.shape, x.dtype, *parameters) if path == paths.ONEDNN else 0
    except Unsupported:
        return 0


def _plain_gradient(dy, x, workspace, *, n: int, k: float, alpha: float, beta: float, path: str):
    wide, ct = x.astype(jnp.float32), dy.astype(jnp.float32)
    u = _scale(wide, n, k, alpha)
    factor = _power(u, beta)
    inner = lax.optimization_barrier(ct * wide * (factor / u))  # else it is computed anew for each of the n channels
    return (ct * factor - (2 * alpha * beta) * wide * _over_channels(inner, n)).astype(x.dtype)


def _plain_tangent(tx, x, workspace, *, n: int, k: float, alpha: float, beta: float, path: str):
    wide, t = x.astype(jnp.float32), tx.astype(jnp.float32)
    u = _scale(wide, n, k, alpha)
    factor = _power(u, beta)
    return (t * factor - (2 * alpha * beta) * wide * (factor / u) * _over_channels(wide * t, n)).astype(x.dtype)


_gradient = with_onednn(calls.response_norm_gradient, _plain_gradient)
response_p = primitive("response_norm", with_onednn(calls.response_norm, _plain), _plain, multiple_results=True)
gradient_p = primitive("response_norm_gradient", _gradient, _plain_gradient)
tangent_p = primitive("response_norm_tangent", _plain_tangent, _plain_tangent)
derive_by_formula(gradient_p, _plain_gradient)


def _jvp(primals, tangents, **parameters):
    (x,), (t,) = primals, tangents
    y, workspace = response_p.bind(x, **parameters)
    ty = tangent_p.bind(ad.instantiate_zeros(t), x, workspace, **parameters)
    return [y, workspace], [ty, ad.Zero(jax.typeof(workspace).to_tangent_aval())]


def _tangent_jvp(primals, tangents, **parameters):
    """Linear in the first alone, which is what the transpose needs; the formula's derivatives otherwise."""
    t, x, workspace = primals
    dt, dx, _ = tangents
    out = tangent_p.bind(*primals, **parameters)
    if type(dx) is ad.Zero:
        return out, tangent_p.bind(ad.instantiate_zeros(dt), x, workspace, **parameters)
    formula = lambda t, x: _plain_tangent(t, x, workspace, **parameters)
    return jax.jvp(formula, (t, x), (ad.instantiate_zeros(dt), ad.instantiate_zeros(dx)))


ad.primitive_jvps[response_p] = _jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = lambda ct, t, x, workspace, **p: [
    gradient_p.bind(ct, x, workspace, **p),
    None,
    None,
]

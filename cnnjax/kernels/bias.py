"""Adding a value a channel, whose gradient is a sum over all positions."""

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.column_sum import column_sum
from cnnjax.kernels.derivation import primitive


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`[..., C] + [C]`."""
    if not paths.computes("biases", y, bias) or y.dtype != bias.dtype:
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
    return y + spread_p.bind(bias, shape=y.shape)


def _spread(bias, *, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(bias.reshape((1,) * (len(shape) - 1) + (-1,)), shape)


def _plain_sum(y) -> jax.Array:
    return y.reshape(-1, y.shape[-1]).sum(0)


def _sum(y) -> jax.Array:
    return column_sum(y).astype(y.dtype)


spread_p = primitive("bias_spread", _spread, _spread)
sum_p = primitive("bias_sum", _sum, _plain_sum)
ad.deflinear2(spread_p, lambda ct, bias, *, shape: [sum_p.bind(ct)])
ad.deflinear2(sum_p, lambda ct, y: [spread_p.bind(ct, shape=tuple(y.aval.shape))])

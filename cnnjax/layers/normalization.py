"""Normalisation of activations. All keep their statistics and parameters in float32."""

import contextlib
import contextvars
from collections.abc import Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

_batch_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar("batch_axis", default=None)


@contextlib.contextmanager
def batch_axis(name: str | None) -> Iterator[None]:
    """While a network is traced inside, its batch is spread over the devices of a named axis (`pmap`, `shard_map`).

    The training step says so; models need not know. Under `jit` over a mesh the batch is the global one: None.
    """
    token = _batch_axis.set(name)
    try:
        yield
    finally:
        _batch_axis.reset(token)


def BatchNorm(**kwargs) -> nn.BatchNorm:
    """Ioffe & Szegedy 2015, with the statistics of the whole batch on however many devices (all hold equally many).

    Say `use_running_average=not train` in the call, not here, so that the training step can hold the statistics of
    frozen layers.
    """
    return nn.BatchNorm(**dict(momentum=0.9, epsilon=1e-5, axis_name=_batch_axis.get()) | kwargs)


GroupNorm = nn.GroupNorm  # Wu & He 2018
LayerNorm = nn.LayerNorm  # Ba, Kiros & Hinton 2016


class LocalResponseNorm(nn.Module):
    """Cross-channel normalisation (Krizhevsky, Sutskever & Hinton 2012, 3.3). `[B, *spatial, C]`.

    b_i = a_i / (k + alpha * sum of a_j^2)^beta, the sum over `n` channels around i, as many of them as there are.

    The paper's convention: alpha multiplies the *sum*. PyTorch and Caffe divide by n first: their alpha is n times
    this one. Of an even n, the channel more stands before i. Computed in float32.
    """

    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        before, after = self.n // 2, (self.n - 1) // 2
        squares = jnp.pad(a * a, [(0, 0)] * (x.ndim - 1) + [(before, after)])
        total = sum(squares[..., j : j + x.shape[-1]] for j in range(self.n))
        return (a * (self.k + self.alpha * total) ** -self.beta).astype(x.dtype)


GROUP_SIZE = 8  # channels
NORMALIZATIONS = ("batch", "group", "layer", "none")


def normalization(kind: str, train: bool, **kwargs):
    """The normalisation of a kind, a function of x `[B, *spatial, C]`; 'none' is the identity."""
    if kind == "batch":
        return partial(BatchNorm(**kwargs), use_running_average=not train)
    if kind == "group":
        return GroupNorm(num_groups=None, group_size=GROUP_SIZE, **kwargs)
    if kind == "layer":
        return LayerNorm(**kwargs)
    if kind == "none":
        return lambda x: x
    raise ValueError(f"There is no normalisation {kind!r}: one of {', '.join(NORMALIZATIONS)}.")

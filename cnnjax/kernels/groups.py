"""A convolution in groups as one convolution for each group."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

MOST_GROUPS = 8  # each of which is compiled by itself; of more one, in a loop that is as fast


def of_one(geometry):
    """The convolution.Geometry of each group."""
    divided = lambda shape: (*shape[:-1], shape[-1] // geometry.groups)
    g = geometry
    return g._replace(x=divided(g.x), w=divided(g.w), y=divided(g.y), groups=1)


def by_group(form: Callable, a: jax.Array, b: jax.Array, kind: str, geometry) -> jax.Array:
    """`form(a, b, kind, geometry)` of each group by itself."""
    groups, each = geometry.groups, of_one(geometry)
    if groups > MOST_GROUPS:  # a loop, whose body alone is compiled
        apart = [jnp.moveaxis(t.reshape(*t.shape[:-1], groups, -1), -2, 0) for t in (a, b)]
        out = jnp.moveaxis(lax.map(lambda part: form(*part, kind, each), apart), 0, -2)
        return out.reshape(*out.shape[:-2], -1)
    parts = zip(*(jnp.split(array, groups, -1) for array in (a, b)))
    return jnp.concatenate([form(*part, kind, each) for part in parts], -1)

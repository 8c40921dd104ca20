"""What the rooms of inspection share in reading traced functions."""

from collections.abc import Iterator
from typing import Any

import jax.extend.core


def inner_jaxprs(eqn) -> Iterator[Any]:
    """The jaxprs that an equation carries: of `jit`, `scan`, `cond`, `custom_vjp`, ..."""
    for value in eqn.params.values():
        for leaf in value if isinstance(value, (tuple, list)) else (value,):
            leaf = getattr(leaf, "jaxpr", leaf)  # a ClosedJaxpr holds a Jaxpr
            if isinstance(leaf, jax.extend.core.Jaxpr):
                yield leaf

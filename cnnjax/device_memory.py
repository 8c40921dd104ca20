"""What devices hold, and what is said where they can hold no more."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cnnjax.errors import RunError

MEGABYTE = 1e6


def held_megabytes(tree: Any) -> float:
    """MB that each device holds of a tree of arrays that lie on devices."""
    return (
        sum(
            int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
            * np.dtype(getattr(leaf.dtype, "type", leaf.dtype)).itemsize
            for leaf in jax.tree.leaves(tree)
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
        / MEGABYTE
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Says what helps when a device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"The device has too little memory: {str(error).splitlines()[0][:200]}\n"
            "Try a smaller --config.batch_size, --config.accumulate=2 or more, or --config.remat."
        ) from error

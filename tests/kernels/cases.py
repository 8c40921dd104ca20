"""Cases of a kernel, each with what NumPy says in float64, held against one program that computes them all.

A program takes longer to compile than to run: cases of one path and precision share one.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import kernels

EXACT = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2}  # of the largest value
BOTH = pytest.mark.parametrize("dtype", tuple(EXACT), ids=("float32", "bfloat16"))
ALL = bool(os.environ.get("CNNJAX_TEST_ALL"))
AT_ONCE = 6  # random cases in a program
SEEDED = pytest.mark.parametrize("seed", range(20 if ALL else 1))


def several(draw: Callable[[np.random.Generator], Any], seed: int) -> list:
    """Random cases that share a program: `draw(generator)` each."""
    rng = np.random.default_rng(seed)
    return [draw(rng) for _ in range(AT_ONCE)]


class Case(NamedTuple):
    """A function of arrays that is computed on a path, and what it and its pull-back are to give."""

    name: Any  # for a person who reads of a failure
    function: Callable
    arrays: tuple[jax.Array, ...]
    cotangent: jax.Array
    expected: tuple[np.ndarray, ...]  # the value and the gradient of each array


def rounded(array, dtype):
    """What the kernel sees, and the same in float64."""
    seen = jnp.asarray(array, dtype)
    return seen, np.asarray(seen, np.float64)


def close(found, expected, dtype, name=""):
    assert found.dtype == dtype, name
    largest = np.abs(expected).max(initial=0) or 1
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, atol=EXACT[dtype] * largest, rtol=0, err_msg=str(name)
    )


def computed(path: str, cases: Sequence[Case]) -> list[tuple]:
    """(value, gradients ...) of every case, by one program."""

    def all_of(arrays, cotangents):
        found = []
        for case, own, ct in zip(cases, arrays, cotangents):
            value, pull = jax.vjp(case.function, *own)
            found.append((value, *pull(ct.astype(value.dtype).reshape(value.shape))))
        return found

    with kernels.using(path):
        return jax.jit(all_of)([case.arrays for case in cases], [case.cotangent for case in cases])


def check(path: str, dtype, cases: Sequence[Case]) -> None:
    """Holds every case's value and gradients against what is expected."""
    for case, results in zip(cases, computed(path, cases), strict=True):
        for found, expected in zip(results, case.expected, strict=True):
            assert found.shape == np.shape(expected), case.name
            close(found, expected, dtype, case.name)

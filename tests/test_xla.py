"""A known fault of XLA on a CPU is kept out."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax  # noqa: F401  (importing it sets the flag)


def test_sums_of_small_vectors_are_right_in_large_batches():
    """The reproducer of github.com/jax-ml/jax/issues/39103 in float32: wrong from row 32,768 on in jaxlib 0.10.2."""
    rows = np.zeros((40_000, 3), np.float32)
    rows[:, 0] = np.arange(40_000)
    matrix = jnp.eye(3)
    sums = jax.jit(jax.vmap(lambda row: ((matrix @ row) ** 2).sum()))(rows)
    np.testing.assert_array_equal(np.asarray(sums), rows[:, 0] ** 2)


@pytest.mark.parametrize(
    "before, after",
    [("", "--xla_cpu_experimental_ynn_fusion_type="), ("--xla_cpu_experimental_ynn_fusion_type=dot", None)],
)
def test_a_choice_of_the_persons_own_is_left_alone(before, after):
    code = "import os, cnnjax; print(os.environ['XLA_FLAGS'])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | dict(XLA_FLAGS=before),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == (before if after is None else after)

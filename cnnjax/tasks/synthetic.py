"""Targets at random, to time a network by."""

import jax
import numpy as np

from cnnjax.tasks.classification.options import Options


def labels(rng: np.random.Generator, outputs: jax.ShapeDtypeStruct) -> tuple:
    """(a task, its targets): a random label for each row of outputs `[N, K]`, whatever these are of."""
    label = rng.integers(0, outputs.shape[-1], outputs.shape[:-1]).astype(np.int32)
    return Options().build(), dict(label=label, weight=np.ones(label.shape, np.float32))

"""Short runs on the digits, for the tests of this folder."""

import contextlib
import functools

import jax
import numpy as np

import cnnjax
from cnnjax.run_directory.checkpoint import Checkpoints
from tests.undrawn import no_pictures


def small_config(**changes):
    """On one device by XLA's own operations, which compile soonest; `devices=0`: on all eight."""
    config = cnnjax.new_config(model="cnn")
    config.devices, config.kernels = 1, "xla"
    config.model.channels, config.model.blocks, config.model.dropout = (8,), 1, 0.2
    config.batch_size, config.log_every, config.steps = 64, 4, 12
    config.schedule.name = "constant"
    config.input.augmentation.shift = 0.1
    for name, value in changes.items():
        *path, leaf = name.split("__")
        setattr(functools.reduce(getattr, path, config), leaf, value)
    return config


def train(workdir, *, pictures=False, **changes):
    lines = []
    with contextlib.nullcontext() if pictures else no_pictures():
        summary = cnnjax.fit(cnnjax.build(small_config(**changes)), workdir, log=lines.append)
    return summary, "\n".join(lines)


def saved(workdir, step=None):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_model(checkpoints.newest() if step is None else step)


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def timeless(entries):
    return [{k: v for k, v in e.items() if k not in ("time", "images_per_second")} for e in entries]

"""What every network says of one batch with weights that are made up here, as it said when `golden_logits.json` was written.

Counts and shapes see neither the order of channels nor where a stride, a pad or a normalisation stands: these numbers do.
`python -m tests.models.test_golden_logits` writes them anew: for a change of a network that is meant, and said in the commit.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from tests.models.networks import CLASSES, DISTINCT, unoptimized, without_chance

GOLDEN = Path(__file__).with_name("golden_logits.json")
BATCH = 2
GAIN = 2.5  # of the variance: through gates and squeezed channels two images still differ in the third digit


def made_up(shape: tuple[int, ...], number: int) -> np.ndarray:
    """Even numbers of [-1, 1), the same everywhere and for ever: a multiplicative hash of their places."""
    places = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64) + np.uint64(1_000_003 * number + 1)
    hashed = (places * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return (hashed.astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def weights_like(variables):
    """Kernels of He's deviation, so that activations neither vanish nor explode; the rest near what it begins with."""

    def leaf(number, path, array):
        values, name = made_up(array.shape, number), path[-1].key
        if name == "kernel":
            return values * np.float32((GAIN * 6 / max(1, array.size // array.shape[-1])) ** 0.5)
        return values / 8 + (name in ("scale", "var"))

    leaves, tree = jax.tree_util.tree_flatten_with_path(variables)
    return jax.tree.unflatten(tree, [leaf(n, path, array) for n, (path, array) in enumerate(leaves)])


def logits(name: str) -> np.ndarray:
    """`[BATCH, CLASSES]` of a network's narrow form, whose sides are odd where it takes such."""
    options = without_chance(name)
    side = max(models.least_size(options), min(33, options.input_shape[0]))
    model, images = options.build(CLASSES), made_up((BATCH, side, side, options.input_shape[-1]), 0)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return np.asarray(
        unoptimized(functools.partial(model.apply, train=False))(weights_like(shapes), jnp.asarray(images))
    )


@pytest.mark.parametrize("name", DISTINCT)
def test_logits_are_as_they_were(name):
    expected = np.array(json.loads(GOLDEN.read_text())[name])
    np.testing.assert_allclose(logits(name), expected, atol=2e-4 * np.abs(expected).max())


def test_golden_logits_tell_networks_and_images_apart():
    golden = {name: np.array(values) for name, values in json.loads(GOLDEN.read_text()).items()}
    assert list(golden) == list(DISTINCT)
    assert all(np.abs(first - second).max() > 0.01 * np.abs(first).max() for first, second in golden.values())
    assert len({values.tobytes() for values in golden.values()}) == len(golden)


if __name__ == "__main__":
    found = {name: [[float(f"{value:.6g}") for value in row] for row in logits(name)] for name in DISTINCT}
    GOLDEN.write_text("{\n" + ",\n".join(f"  {json.dumps(n)}: {json.dumps(v)}" for n, v in found.items()) + "\n}\n")

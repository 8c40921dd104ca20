"""The same-size U-Net: shapes, count, field of view."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.config import Config
from cnnjax.errors import DoesNotFit, UserError
from cnnjax.inspection.layer_table import layer_table


def count(base, depth, channels, classes):
    """Parameters by hand: 9 i o + o a 3x3 convolution, 4 i o + o an up-convolution, i o + o the last."""
    pair = lambda i, o: 9 * i * o + o + 9 * o * o + o
    widths = [base * 2**n for n in range(depth + 1)]
    down = sum(pair(i, o) for i, o in zip([channels, *widths], widths))
    up = sum(4 * 2 * w * w + w + pair(2 * w, w) for w in widths[:-1])
    return down + up + base * classes + classes


@pytest.mark.parametrize("name, base", [("unet", 64), ("unet16", 16)])
def test_parameters(name, base):
    table = layer_table(models.options(name).build(2), jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32), train=False)
    assert table.parameters == count(base, 4, 1, 2)
    assert base == 16 or table.parameters == 31_030_658  # with biases, one channel, two classes: the paper's count


def test_logits_are_as_large_as_the_picture_and_every_parameter_is_reached():
    options = models.options("unet").narrow()
    model, x = options.build(3), jax.random.normal(jax.random.key(0), (2, 16, 24, 1))

    @functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))
    def logits_and_gradient(key):
        variables = model.init(key, x)
        logits = model.apply(variables, x)
        return logits, jax.grad(lambda v: (model.apply(v, x) ** 2).sum())(variables)

    logits, gradient = logits_and_gradient(jax.random.key(1))
    assert logits.shape == (2, 16, 24, 3) and logits.dtype == jnp.float32
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


def test_sides_must_be_divisible():
    with pytest.raises(DoesNotFit, match="16 divides"):
        models.options("unet").build(2).init(jax.random.key(0), jnp.ones((1, 40, 64, 1)))


def test_it_is_no_classifier(tmp_path):
    import cnnjax

    with pytest.raises(UserError, match="config.model=unet16 says something of every pixel"):
        config = Config(model=models.options("unet16"))
        config.data.image_size = 16
        cnnjax.build(config)

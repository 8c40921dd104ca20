"""Every registered network goes through the same tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import layers, models
from cnnjax.errors import UserError

SHAPE = (4, 16, 16, 1)


def built(name, **kwargs):
    model = models.options(name).build(3, **kwargs)
    images = jax.random.normal(jax.random.key(0), SHAPE)
    return model, jax.jit(lambda: model.init(jax.random.key(1), images))(), images


@pytest.mark.parametrize("name", models.MODELS)
class TestEveryModel:
    def test_logits_are_float32_in_either_precision(self, name):
        for dtype in (jnp.float32, jnp.bfloat16):
            model, variables, images = built(name, dtype=dtype)
            logits = model.apply(variables, images)
            assert logits.shape == (4, 3) and logits.dtype == jnp.float32
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))

    def test_the_gradient_reaches_every_parameter(self, name):
        model, variables, images = built(name)

        def loss(params):
            logits, _ = model.apply(variables | dict(params=params), images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1, 2, 0])).mean()

        for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables["params"])):
            assert float(jnp.abs(gradient).max()) > 0, path

    def test_remat_changes_no_number(self, name):
        model, variables, images = built(name)
        again = models.options(name).build(3, remat=True)
        loss = lambda m: lambda p: m.apply(variables | dict(params=p), images).sum()
        first, second = (jax.grad(loss(m))(variables["params"]) for m in (model, again))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), first, second)

    def test_one_batch_is_learnt_by_heart(self, name):
        model, variables, images = built(name)
        label, optimizer = jnp.array([0, 1, 2, 0]), optax.adam(3e-3)

        @jax.jit
        def step(variables, state):
            def loss(params):
                logits, changed = model.apply(
                    variables | dict(params=params), images, train=True, mutable=["batch_stats"]
                )
                return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), changed

            gradient, changed = jax.grad(loss, has_aux=True)(variables["params"])
            updates, state = optimizer.update(gradient, state)
            return dict(changed, params=optax.apply_updates(variables["params"], updates)), state

        state = optimizer.init(variables["params"])
        for _ in range(40):
            variables, state = step(variables, state)
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        assert (logits.argmax(-1) == label).all()


def test_lenet5_has_the_usual_parameters():
    """61,706: 6*(25+1) + 16*(6*25+1) + 120*(400+1) + 84*(120+1) + 10*(84+1)."""
    variables = models.options("lenet5").build(10).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 156 + 2416 + 48120 + 10164 + 850 == 61706


def test_lenet5_refuses_large_pictures():
    with pytest.raises(UserError, match="config.data.image_size=32"):
        models.options("lenet5").build(10).init(jax.random.key(0), jnp.zeros((1, 33, 20, 1)))


def test_cnn_counts_by_hand():
    options = models.options("cnn")
    options.channels, options.blocks, options.hidden, options.normalization = (4, 8), 1, (5,), "none"
    variables = options.build(3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
    # 3x3 convolutions 2 -> 4 -> 8 with biases, 4x4x8 flattened -> 5 -> 3
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == (72 + 4) + (288 + 8) + (128 * 5 + 5) + (5 * 3 + 3)


@pytest.mark.parametrize("downsampling", ["max", "average", "stride"])
@pytest.mark.parametrize("normalization", layers.NORMALIZATIONS)
def test_cnn_options(downsampling, normalization):
    options = models.options("cnn")
    options.channels, options.downsampling, options.normalization, options.dropout = (
        (8, 8, 16),
        downsampling,
        normalization,
        0.5,
    )
    model = options.build(3)
    variables = model.init(jax.random.key(0), jnp.zeros(SHAPE))
    logits, _ = model.apply(
        variables, jnp.ones(SHAPE), train=True, mutable=["batch_stats"], rngs=dict(dropout=jax.random.key(1))
    )
    assert logits.shape == (4, 3)


def test_cnn_refuses_pictures_that_vanish():
    with pytest.raises(UserError, match="at least 4x4"):
        models.options("cnn").build(3).init(jax.random.key(0), jnp.zeros((1, 2, 8, 1)))


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="There is no model 'lenet'. Did you mean lenet5"):
        models.options("lenet")

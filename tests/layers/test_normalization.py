"""Normalisation, pooling, gates and dropout against NumPy: forward and gradient, float32 and bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnnjax import layers
from tests.layers import references


def plain(layer, **kwargs):
    """A layer with its first variables, as a function of a precision."""

    def function(dtype):
        made = layer(dtype)
        return lambda x: made.apply(made.init(jax.random.key(0), x, **kwargs), x, **kwargs)

    return function


@pytest.mark.parametrize(
    "n, k, alpha, beta", [(5, 2.0, 1e-4, 0.75), (3, 1.0, 0.5, 0.5), (4, 1.5, 0.3, 1.0), (1, 1.0, 1.0, 0.75)]
)
def test_local_response_as_the_paper_writes_it(n, k, alpha, beta):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (2, 3, 3, 8))
    reference = lambda x: references.local_response(x, n, k, alpha, beta)
    references.agrees(
        lambda dtype: lambda x: layers.LocalResponseNorm(n, k, alpha, beta).apply({}, x), reference, x, rng=rng
    )


def test_local_response_by_hand_and_in_pytorchs_convention():
    """Channels 1, 2, 3 with n = 3, k = 1, beta = 1 and alpha = 1: sums of squares 5, 14, 13. PyTorch divides alpha by n."""
    x = jnp.array([1.0, 2, 3]).reshape(1, 1, 3)
    y = layers.LocalResponseNorm(3, 1.0, 1.0, 1.0).apply({}, x)
    np.testing.assert_allclose(y.ravel(), [1 / 6, 2 / 15, 3 / 14], rtol=1e-6)
    pytorch = [1 / (1 + 3.0 / 3 * 5), 2 / (1 + 3.0 / 3 * 14), 3 / (1 + 3.0 / 3 * 13)]  # with its alpha = 3
    np.testing.assert_allclose(y.ravel(), pytorch, rtol=1e-6)


@pytest.mark.parametrize(
    "layer, axes, kwargs",
    [
        (lambda dtype: layers.BatchNorm(dtype=dtype), (0, 1, 2), dict(use_running_average=False)),
        (lambda dtype: layers.LayerNorm(epsilon=1e-5, dtype=dtype), (3,), {}),
    ],
)
def test_batch_and_layer_normalization(layer, axes, kwargs):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (3, 4, 5, 6))

    def function(dtype):
        made = layer(dtype)

        def run(x):
            y, _ = made.apply(made.init(jax.random.key(0), x, **kwargs), x, **kwargs, mutable=["batch_stats"])
            return y

        return run

    references.agrees(function, lambda x: references.standardized(x, axes, 1e-5), x, rng=rng)


def test_group_normalization():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (2, 4, 3, 6))

    def reference(x):
        grouped = x.reshape(2, 4, 3, 2, 3)
        return references.standardized(grouped, (1, 2, 4), 1e-6).reshape(x.shape)

    references.agrees(plain(lambda dtype: layers.GroupNorm(num_groups=2, dtype=dtype)), reference, x, rng=rng)


@pytest.mark.parametrize("window, strides, pads", [((2,), None, 0), ((3,), (2,), 1), ((3,), (1,), 0)])
@pytest.mark.parametrize("kind", ["max", "average", "average of what is there"])
def test_pooling(kind, window, strides, pads):
    rng = np.random.default_rng(0)
    x = rng.permutation(72)[:56].reshape(2, 7, 4) - 30.0
    step = (strides or window)[0]

    def reference(x):
        beyond = -np.inf if kind == "max" else 0.0 if kind == "average" else np.nan
        padded = np.pad(x, [(0, 0), (pads, pads), (0, 0)], constant_values=beyond)
        count = (padded.shape[1] - window[0]) // step + 1
        windows = np.stack([padded[:, i * step : i * step + window[0]] for i in range(count)], 1)
        return windows.max(2) if kind == "max" else np.nanmean(windows, 2)

    if kind == "max":
        pool = layers.MaxPool(window, strides, padding=pads)
    else:
        pool = layers.AveragePool(window, strides, padding=pads, count_include_pad=kind == "average")
    references.agrees(lambda dtype: lambda x: pool.apply({}, x), reference, x, rng=rng)


@pytest.mark.parametrize("layer, reference", [
    (layers.GlobalAveragePool(), lambda x: x.mean((1, 2, 3))),
    (layers.GlobalMaxPool(), lambda x: x.max((1, 2, 3))),
])  # fmt: skip
def test_global_pooling_in_three_dimensions(layer, reference):
    rng = np.random.default_rng(0)
    references.agrees(lambda dtype: lambda x: layer.apply({}, x), reference, rng.normal(size=(2, 3, 2, 4, 5)), rng=rng)


def test_squeeze_and_excite():
    rng = np.random.default_rng(0)
    x, down, up = rng.normal(size=(2, 3, 4, 6)), rng.normal(size=(6, 2)), rng.normal(size=(2, 6))
    a, b = rng.normal(size=2), rng.normal(size=6)

    def reference(x, down, up):
        return x * scipy.special.expit(np.maximum(x.mean((1, 2)) @ down + a, 0) @ up + b)[:, None, None]

    def function(dtype):
        def run(x, down, up):
            params = dict(
                reduce=dict(kernel=down.reshape(1, 1, 6, 2), bias=jnp.asarray(a, jnp.float32)),
                expand=dict(kernel=up.reshape(1, 1, 2, 6), bias=jnp.asarray(b, jnp.float32)),
            )
            return layers.SqueezeExcite(2, dtype=dtype).apply(dict(params=params), x)

        return run

    references.agrees(function, reference, x, down, up, rng=rng)


@pytest.mark.parametrize("name, reference", [
    ("relu", lambda x: np.maximum(x, 0)), ("relu6", lambda x: np.clip(x, 0, 6)), ("sigmoid", scipy.special.expit),
    ("tanh", np.tanh), ("silu", lambda x: x * scipy.special.expit(x)),
    ("gelu", lambda x: x * scipy.special.ndtr(x)),
])  # fmt: skip
def test_activations(name, reference):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 4, (50, 7))
    references.agrees(lambda dtype: lambda x: layers.activation(name).apply({}, x), reference, x, rng=rng)


def test_softmax():
    rng = np.random.default_rng(0)
    reference = lambda x: scipy.special.softmax(x, axis=-1)
    references.agrees(
        lambda dtype: lambda x: layers.Softmax().apply({}, x), reference, rng.normal(size=(4, 5)), rng=rng
    )


def test_dropout_keeps_the_mean_and_stochastic_depth_whole_examples():
    x, rngs = jnp.ones((400, 5, 5, 4)), dict(dropout=jax.random.key(0))
    units = layers.Dropout(0.25).apply({}, x, deterministic=False, rngs=rngs)
    assert set(np.unique(units)) == {np.float32(0), np.float32(1 / 0.75)} and units.mean() == pytest.approx(1, abs=0.02)
    branches = np.asarray(layers.StochasticDepth(0.25).apply({}, x, deterministic=False, rngs=rngs))
    assert set(np.unique(branches)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (branches == branches[:, :1, :1, :1]).all() and branches.mean() == pytest.approx(1, abs=0.15)
    for layer in (layers.Dropout(0.25), layers.StochasticDepth(0.25)):
        np.testing.assert_array_equal(layer.apply({}, x, deterministic=True), x)

"""Layers against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnnjax import kernels, layers


def apply(layer, x):
    return np.asarray(layer.apply(layer.init(jax.random.key(0), x), x))


FIELD = jnp.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], jnp.float32).reshape(1, 4, 4, 1)


def test_max_pooling_of_the_textbook():
    np.testing.assert_array_equal(apply(layers.MaxPool((2, 2)), FIELD)[0, ..., 0], [[6, 8], [3, 4]])


@pytest.mark.parametrize(
    "shape, window", [((2, 6, 8, 3), (2, 2)), ((2, 7, 5, 3), (3, 2)), ((2, 9, 2), (4,)), ((1, 4, 5, 6, 2), (2, 2, 3))]
)
@pytest.mark.parametrize("values", ["distinct", "ties"])
def test_max_pooling_equals_reduce_window_with_its_gradient(shape, window, values):
    """On zeros, the rule after ReLU, the first maximum of a window gets the whole gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape) if values == "distinct" else rng.integers(0, 2, shape), jnp.float32)
    pool = lambda x: layers.MaxPool(window).apply({}, x)
    reference = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *window, 1), "VALID")
    np.testing.assert_array_equal(pool(x), reference(x))
    weights = jnp.asarray(rng.normal(size=pool(x).shape), jnp.float32)
    gradient = lambda p: jax.grad(lambda x: (p(x) * weights).sum())(x)
    np.testing.assert_array_equal(gradient(pool), gradient(reference))
    np.testing.assert_array_equal(jax.jvp(pool, (x,), (x,))[1], jax.jvp(reference, (x,), (x,))[1])


@pytest.mark.parametrize(
    "dtype", (jnp.bfloat16, jnp.float16, jnp.float8_e5m2, jnp.int32, jnp.int8, jnp.uint8, jnp.bool_)
)
def test_max_pooling_keeps_its_type_to_the_bit(dtype):
    signed = not jnp.issubdtype(dtype, jnp.unsignedinteger) and dtype != jnp.bool_
    x = jnp.asarray(np.random.default_rng(0).integers(-120 if signed else 0, 0 if signed else 2, (2, 6, 4, 3)), dtype)
    y = layers.MaxPool((3, 2)).apply({}, x)
    assert y.dtype == dtype
    expected = np.asarray(x.astype(jnp.float32)).reshape(2, 2, 3, 2, 2, 3).max((2, 4))
    np.testing.assert_array_equal(np.asarray(y.astype(jnp.float32)), expected)


def test_max_pooling_of_signed_zeros_takes_the_first_as_reduce_window():
    x = jnp.array([0.0, -0.0, -0.0, 0.0]).reshape(1, 4, 1)
    y = layers.MaxPool((2,)).apply({}, x)[0, :, 0]
    np.testing.assert_array_equal(np.signbit(y), [False, True])


def test_the_gradient_of_max_pooling_is_exported_for_any_batch():
    from jax import export

    gradient = jax.jit(jax.grad(lambda x: (layers.MaxPool((2,)).apply({}, x) ** 2).sum()))
    any_batch = jax.ShapeDtypeStruct(export.symbolic_shape("b, 4, 1"), jnp.float32)
    found = export.export(gradient)(any_batch).call(jnp.array([[1.0, 5.0, 3.0, 2.0]] * 3)[..., None])
    np.testing.assert_array_equal(found[..., 0], [[0, 10, 6, 0]] * 3)


def test_the_gradient_of_max_pooling_goes_through_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    gradient = jax.grad(lambda x: (layers.MaxPool((2,)).apply({}, x) ** 2).sum())
    x = jnp.array([[1.0, 5.0, 3.0, 2.0]] * 8)[..., None]
    found = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))(x)
    np.testing.assert_array_equal(found[..., 0], [[0, 10, 6, 0]] * 8)


@pytest.mark.parametrize("path", (kernels.GPU, kernels.PORTABLE))
def test_gradients_inside_shard_map_are_summed_over_devices_on_every_path(path):
    """Of weights that all devices share."""
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    x, up, w = (jnp.float32(rng.normal(size=shape)) for shape in ((8, 4, 4, 3), (2, 2, 3, 5), (5, 6)))

    def loss(weights, x):
        y = kernels.max_pool(kernels.conv_transpose(x, weights[0], (2, 2), "SAME"), (3, 3), (2, 2), ((0, 0), (0, 0)))
        return (kernels.dense(y, weights[1], (((3,), (0,)), ((), ()))) ** 2).sum()

    divided = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec())
    with kernels.using(path):
        found = jax.jit(divided)((up, w), x)
    for gradient, expected in zip(found, jax.grad(loss)((up, w), x), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


def test_max_pooling_of_no_pictures():
    pool = lambda x: layers.MaxPool((2, 2)).apply({}, x)
    assert pool(jnp.zeros((0, 4, 5, 3))).shape == (0, 2, 2, 3)
    assert jax.grad(lambda x: pool(x).sum())(jnp.zeros((0, 4, 5, 3))).shape == (0, 4, 5, 3)


def test_max_pooling_hides_no_nan_and_has_higher_derivatives():
    x = jnp.array([1.0, np.nan, np.nan, 2.0, 3.0, -1.0]).reshape(1, 6, 1)
    pool = lambda x: layers.MaxPool((2,)).apply({}, x)
    np.testing.assert_array_equal(pool(x)[0, :, 0], [np.nan, np.nan, 3])
    gradient = jax.grad(lambda x: (pool(x) * jnp.array([2.0, 3.0, 4.0]).reshape(1, 3, 1)).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 2, 3, 0, 4, 0])
    x = jnp.array([1.0, 5.0, 3.0, 2.0]).reshape(1, 4, 1)
    cubes = lambda x: (pool(x) ** 3).sum()  # second derivatives: 6 times the largest, of the largest alone
    np.testing.assert_array_equal(np.diag(jax.hessian(cubes)(x).reshape(4, 4)), [0, 30, 18, 0])


def test_max_pooling_of_infinities_and_overlap():
    x = jnp.array([-jnp.inf, 1.0, jnp.inf, -jnp.inf]).reshape(1, 4, 1)
    np.testing.assert_array_equal(apply(layers.MaxPool((2,)), x)[0, :, 0], [1, np.inf])
    np.testing.assert_array_equal(apply(layers.MaxPool((3, 3), (1, 1)), FIELD)[0, ..., 0], [[7, 8], [7, 8]])
    np.testing.assert_array_equal(
        apply(layers.MaxPool((2, 2), padding="SAME"), FIELD[:, :3])[0, ..., 0], [[6, 8], [3, 1]]
    )


def test_average_pooling_by_hand():
    np.testing.assert_array_equal(apply(layers.AveragePool((2, 2)), FIELD)[0, ..., 0], [[3.25, 5.25], [2.0, 2.0]])


def test_global_average():
    np.testing.assert_allclose(apply(layers.GlobalAveragePool(), FIELD), [[50 / 16]])


def test_flatten_keeps_channels_fastest():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(apply(layers.Flatten(), x), [np.arange(12)])


@pytest.mark.parametrize(
    "name, reference",
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("tanh", np.tanh),
        ("silu", lambda x: x * scipy.special.expit(x)),
        ("gelu", lambda x: x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))),
    ],
)
def test_activations_against_scipy(name, reference):
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    np.testing.assert_allclose(apply(layers.activation(name), x), reference(x.astype(np.float64)), atol=1e-5)


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean relu"):
        layers.activation("rely")


def test_convolution_sums_over_all_input_channels():
    """A 2x2 filter of ones over two channels adds up eight values."""
    x = jnp.arange(18.0).reshape(1, 3, 3, 2)
    layer = layers.Conv(1, (2, 2), padding="VALID")
    y = layer.apply(dict(params=dict(kernel=jnp.ones((2, 2, 2, 1)), bias=jnp.zeros(1))), x)
    expected = [[np.asarray(x)[0, i : i + 2, j : j + 2].sum() for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(y[0, ..., 0], expected)


def test_batch_norm_by_hand():
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 3)).astype(np.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, use_running_average=False)
    y, changed = norm.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_layer_scale_weighs_each_channel_and_begins_small():
    x = jnp.arange(12.0).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(apply(layers.LayerScale(), x), 1e-6 * np.arange(12.0).reshape(1, 2, 2, 3), rtol=1e-6)
    scaled = layers.LayerScale().apply(dict(params=dict(scale=jnp.array([1.0, 0.0, -2.0]))), x.astype(jnp.bfloat16))
    np.testing.assert_array_equal(scaled[0, 1, 1], np.array([9, 0, -22]))
    assert scaled.dtype == jnp.bfloat16

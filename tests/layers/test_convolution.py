"""Convolutions against NumPy and SciPy: forward and gradient, float32 and bfloat16, one to three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import layers
from cnnjax.errors import DoesNotFit
from tests.layers import references

NUMPY_MODES = dict(zeros="constant", edge="edge", reflect="reflect")


def holds(x_shape, window, features, strides, dilation, groups, padding, padding_mode="zeros", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=x_shape)
    kernel = rng.normal(size=(*window, x_shape[-1] // groups, features))
    wide = [(k - 1) * d + 1 for k, d in zip(window, dilation)]
    pads = references.same(x_shape[1:-1], wide, strides) if padding == "SAME" else padding
    pads = [(0, 0)] * len(window) if padding == "VALID" else pads
    reference = lambda x, kernel: references.convolution(
        x, kernel, strides, dilation, groups, pads, NUMPY_MODES[padding_mode]
    )

    def function(dtype):
        layer = layers.Conv(features, window, strides=strides, padding=padding, kernel_dilation=dilation,
                            feature_group_count=groups, use_bias=False, padding_mode=padding_mode, dtype=dtype)  # fmt: skip
        return lambda x, kernel: layer.apply(dict(params=dict(kernel=kernel)), x)

    references.agrees(function, reference, x, kernel, rng=rng, linear=True)


@pytest.mark.parametrize(
    "case",
    [
        ((2, 9, 4), (3,), 6, (1,), (1,), 1, "SAME"),
        ((1, 12, 4), (4,), 4, (3,), (1,), 2, "SAME"),
        ((1, 11, 2), (3,), 4, (2,), (3,), 1, "VALID"),
        ((1, 7, 8, 4), (3, 2), 6, (1, 2), (1, 1), 2, "SAME"),
        ((2, 6, 9, 3), (3, 3), 3, (2, 1), (1, 2), 3, [(1, 2), (0, 3)]),
        ((1, 8, 8, 2), (5, 5), 3, (4, 4), (1, 1), 1, "VALID"),
        ((1, 5, 4, 6, 2), (3, 2, 3), 4, (1, 1, 2), (1, 1, 1), 1, "SAME"),
        ((1, 4, 5, 5, 4), (2, 3, 1), 4, (2, 1, 1), (1, 2, 1), 4, [(0, 1), (2, 2), (0, 0)]),
    ],
)
@pytest.mark.parametrize("padding_mode", layers.PADDING_MODES)
def test_convolutions_of_every_kind(case, padding_mode):
    holds(*case, padding_mode=padding_mode)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from([1, 2]),
       st.integers(0, 2), st.integers(0, 2), st.sampled_from(sorted(layers.PADDING_MODES)))  # fmt: skip
def test_random_convolutions(size, kernel, stride, dilation, groups, before, after, padding_mode):
    holds((1, size + 4, 4), (kernel,), 4, (stride,), (dilation,), groups, [(before, after)], padding_mode)


@pytest.mark.parametrize("mode, name", [("zeros", "constant"), ("edge", "nearest"), ("reflect", "mirror")])
def test_two_dimensions_against_scipy(mode, name):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(7, 9)), rng.normal(size=(3, 5))
    layer = layers.Conv(1, (3, 5), use_bias=False, padding_mode=mode)
    y = layer.apply(dict(params=dict(kernel=jnp.asarray(kernel.reshape(3, 5, 1, 1), jnp.float32))),
                    jnp.asarray(x.reshape(1, 7, 9, 1), jnp.float32))  # fmt: skip
    np.testing.assert_allclose(y[0, ..., 0], scipy.ndimage.correlate(x, kernel, mode=name), atol=1e-5)


def test_the_bias_is_one_number_a_channel():
    layer = layers.Conv(2, (1,))
    params = dict(kernel=jnp.zeros((1, 3, 2)), bias=jnp.array([1.0, -2.0]))
    np.testing.assert_array_equal(layer.apply(dict(params=params), jnp.ones((1, 4, 3)))[0], [[1, -2]] * 4)


def test_padding_of_edges_and_reflection_by_hand():
    """A kernel that copies its left neighbour: [1, 2, 3] begins with nothing, itself, or what stands opposite."""
    kernel = dict(params=dict(kernel=jnp.array([1.0, 0, 0]).reshape(3, 1, 1)))
    x = jnp.array([1.0, 2, 3]).reshape(1, 3, 1)
    for mode, first in (("zeros", 0), ("edge", 1), ("reflect", 2)):
        y = layers.Conv(1, (3,), use_bias=False, padding_mode=mode).apply(kernel, x)
        np.testing.assert_array_equal(y[0, :, 0], [first, 1, 2])


@pytest.mark.parametrize("size, kernel, stride", [(4, 2, 2), (5, 3, 2), (4, 5, 3), (6, 3, 1)])
def test_transposed_convolution_spreads_every_pixel(size, kernel, stride):
    """Each input is laid down times the kernel at its place; 'VALID' keeps all, against scipy.signal."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=size), rng.normal(size=kernel)
    spread = np.zeros((size - 1) * stride + 1)
    spread[::stride] = x
    layer = layers.ConvTranspose(
        1, (kernel,), strides=(stride,), padding="VALID", use_bias=False, transpose_kernel=True
    )
    y = layer.apply(dict(params=dict(kernel=jnp.asarray(weights.reshape(-1, 1, 1), jnp.float32))),
                    jnp.asarray(x.reshape(1, -1, 1), jnp.float32))[0, :, 0]  # fmt: skip
    full = scipy.signal.convolve(spread, weights)
    full = np.pad(full, (0, max(0, len(y) - len(full))))
    np.testing.assert_allclose(y, full, atol=1e-5)
    same = layers.ConvTranspose(3, (kernel,), strides=(stride,))
    assert same.init_with_output(jax.random.key(0), jnp.ones((1, size, 2)))[0].shape == (1, size * stride, 3)


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_interpolate_then_convolve(method):
    x = np.array([1.0, 3.0, 7.0])
    places = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)  # centres of the new pixels among the old ones
    larger = x[np.round(places + 1e-9).astype(int)] if method == "nearest" else np.interp(places, range(3), x)
    if method == "nearest":
        larger = np.repeat(x, 2)
    layer = layers.InterpolateConv(1, (3,), method=method, use_bias=False)
    kernel = np.array([0.5, 2.0, -1.0])
    y = layer.apply(dict(params=dict(Conv_0=dict(kernel=jnp.asarray(kernel.reshape(3, 1, 1), jnp.float32)))),
                    jnp.asarray(x.reshape(1, 3, 1), jnp.float32))  # fmt: skip
    np.testing.assert_allclose(y[0, :, 0], np.correlate(larger, kernel, "same"), atol=1e-5)


def test_locally_connected_with_one_kernel_everywhere_is_a_convolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 2, 3, 4))
    shared = layers.Conv(4, (3, 2), padding="VALID", use_bias=False)
    local = layers.LocallyConnected(4, (3, 2), padding="VALID", use_bias=False)
    # Its kernels list the channels of the window with the channel slowest, as lax.conv_general_dilated_local has it.
    each = np.broadcast_to(kernel.transpose(2, 0, 1, 3).reshape(1, 1, -1, 4), (4, 4, 18, 4))
    got, expected = (
        layer.apply(dict(params=dict(kernel=jnp.asarray(k, jnp.float32))), jnp.asarray(x, jnp.float32))
        for layer, k in ((local, each), (shared, kernel))
    )
    np.testing.assert_allclose(got, expected, atol=1e-4)
    shapes = jax.eval_shape(local.init, jax.random.key(0), jnp.ones((1, 6, 5, 3)))
    assert shapes["params"]["kernel"].shape == (4, 4, 18, 4)


LOCAL = [
    ((2, 5), (3,), 3, (1,), (1,), "SAME"),
    ((1, 9), (2,), 2, (2,), (3,), "VALID"),
    ((2, 6, 5), (3, 2), 4, (2, 1), (1, 2), "SAME"),
    ((1, 5, 6), (3, 3), 2, (2, 3), (1, 1), [(2, 0), (1, 1)]),
    ((1, 3, 4, 3), (2, 2, 1), 2, (1, 2, 1), (1, 1, 1), "VALID"),
]


@pytest.mark.parametrize("sizes, window, features, strides, dilation, padding", LOCAL)
def test_locally_connected_against_a_loop_over_positions(sizes, window, features, strides, dilation, padding):
    """Each position has its own kernel and bias; forward and gradients of all three."""
    rng, channels = np.random.default_rng(0), 3
    wide = [(k - 1) * d + 1 for k, d in zip(window, dilation)]
    pads = references.same(sizes[1:], wide, strides) if padding == "SAME" else padding
    pads = [(0, 0)] * len(window) if padding == "VALID" else pads
    counts = [(n + sum(p) - w) // s + 1 for n, p, w, s in zip(sizes[1:], pads, wide, strides)]
    x = rng.normal(size=(*sizes, channels))
    kernel = rng.normal(size=(*counts, channels * np.prod(window), features))
    bias = rng.normal(size=(*counts, features))

    def reference(x, kernel, bias):
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
        y = np.zeros((len(x), *counts, features))
        for place in np.ndindex(*counts):
            cut = [slice(p * s, p * s + w, d) for p, s, w, d in zip(place, strides, wide, dilation)]
            seen = np.moveaxis(x[(slice(None), *cut)], -1, 1).reshape(len(x), -1)  # channels slowest
            y[(slice(None), *place)] = seen @ kernel[place] + bias[place]
        return y

    def function(dtype):
        layer = layers.LocallyConnected(features, window, strides, padding, dilation, dtype=dtype)
        return lambda x, kernel, bias: layer.apply(dict(params=dict(kernel=kernel, bias=bias)), x)

    references.agrees(function, reference, x, kernel, bias, rng=rng)
    shapes = jax.eval_shape(layers.LocallyConnected(features, window, strides, padding, dilation).init,
                            jax.random.key(0), jnp.zeros(x.shape))["params"]  # fmt: skip
    assert {name: leaf.shape for name, leaf in shapes.items()} == dict(kernel=kernel.shape, bias=bias.shape)


def test_locally_connected_begins_as_a_convolution():
    """Each position by its own fan-in of 3 * 3 * 16, on however many positions."""
    layer = layers.LocallyConnected(32, (3, 3), use_bias=False)
    (kernel,) = jax.tree.leaves(layer.init(jax.random.key(0), jnp.zeros((1, 6, 5, 16))))
    assert kernel.shape == (6, 5, 144, 32) and kernel.var() == pytest.approx(1 / 144, rel=0.02)


def test_locally_connected_says_what_does_not_fit():
    with pytest.raises(DoesNotFit, match="At LocallyConnected 2 positions arrive, less than its window of 3"):
        layers.LocallyConnected(1, (3,), padding="VALID").init(jax.random.key(0), jnp.ones((1, 2, 1)))


def test_what_does_not_fit_is_named():
    with pytest.raises(DoesNotFit, match="At Conv 4x3 positions arrive, less than its window of 5x1"):
        layers.Conv(1, (3, 1), padding="VALID", kernel_dilation=(2, 1)).init(jax.random.key(0), jnp.ones((1, 4, 3, 1)))
    with pytest.raises(ValueError, match="There is no padding mode 'wrap'"):
        layers.Conv(1, (3,), padding_mode="wrap")
    with pytest.raises(ValueError, match="A reflection of 3 positions needs more than as many, not 3"):
        layers.Conv(1, (7,), padding_mode="reflect").init(jax.random.key(0), jnp.ones((1, 3, 1)))


@pytest.mark.parametrize("mode, fan", [("fan_in", 3 * 3 * 16), ("fan_out", 3 * 3 * 64)])
def test_he_initialisation_has_its_variance(mode, fan):
    weights = layers.he_normal(mode)(jax.random.key(0), (3, 3, 16, 64))
    assert weights.var() == pytest.approx(2 / fan, rel=0.05) and abs(weights.mean()) < 0.01


def test_a_causal_convolution_sees_no_future():
    kernel = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)  # of two steps ago, one, now
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    layer = layers.Conv(1, (3,), padding="CAUSAL", use_bias=False)
    y = layer.apply(dict(params=dict(kernel=kernel)), x)
    np.testing.assert_allclose(y[0, :, 0], [100, 210, 321, 432])

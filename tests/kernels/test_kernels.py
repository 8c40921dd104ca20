"""Every kernel and its gradients against NumPy in float64, on random shapes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import kernels
from cnnjax.kernels.onednn import calls
from tests.kernels import references
from tests.kernels.cases import BOTH, EXACT, SEEDED, Case, check, close, computed, rounded, several


def a_convolution(rng):
    """(x shape, w shape, strides, pads, dilation, groups) of a convolution that finds a position."""
    axes = rng.integers(1, 4)
    many = lambda low, high: rng.integers(low, high + 1, axes).tolist()
    window, strides, dilation = many(1, 4), many(1, 3), many(1, 2)
    least = rng.choice((0, 0, -2))
    pads = list(zip(many(least, 3), many(least, 3)))
    groups = int(rng.choice((1, 1, 2, 3)))
    inputs, outputs = (groups * int(n) for n in rng.integers(1, 6, 2))
    if axes < 3 and rng.random() < 0.5:
        groups = inputs  # depthwise
        outputs = inputs * int(rng.integers(1, 3))
    least = [max(1, (k - 1) * d + 1 - sum(p)) for k, d, p in zip(window, dilation, pads)]
    sizes = [n + more for n, more in zip(least, many(0, 7))]
    x = (int(rng.integers(1, 4)), *sizes, inputs)
    return x, (*window, inputs // groups, outputs), tuple(strides), pads, tuple(dilation), groups


def convolution_case(dtype, x_shape, w_shape, strides, pads, dilation, groups=1, seed=0):
    rng = np.random.default_rng(seed)
    x, x64 = rounded(rng.normal(size=x_shape), dtype)
    w, w64 = rounded(rng.normal(size=w_shape), dtype)
    y64 = references.convolution(x64, w64, None, strides, pads, dilation, groups)[0]
    dy, dy64 = rounded(rng.normal(size=y64.shape), dtype)
    expected = references.convolution(x64, w64, dy64, strides, pads, dilation, groups)
    function = lambda x, w: kernels.convolution(
        x, w, strides, pads, rhs_dilation=dilation, dimension_numbers=kernels.channels_last(len(strides)),
        feature_group_count=groups,
    )  # fmt: skip
    return Case((x_shape, w_shape, strides, pads, dilation, groups, seed), function, (x, w), dy, expected)


@BOTH
@SEEDED
def test_convolution_and_its_gradients(path, dtype, seed):
    check(path, dtype, [convolution_case(dtype, *drawn, seed) for drawn in several(a_convolution, seed)])


FORMS = [  # x, w, strides, pads, dilation: shapes that have a form of their own
    ((1, 1, 2), (1, 2, 2), (4,), [(3, 0)], (1,)),  # a padding that no window needs, and is larger than the picture
    ((1, 2, 2), (2, 2, 2), (3,), [(3, 0)], (1,)),
    ((2, 8, 8, 4), (3, 3, 4, 4), (2, 2), [(0, 0), (2, -1)], (1, 1)),  # pixels taken away
    ((2, 8, 8, 4), (3, 3, 4, 4), (1, 1), [(-1, 0), (0, 0)], (1, 1)),
    ((2, 8, 8, 4), (1, 1, 4, 4), (2, 2), [(-1, 0), (0, -2)], (1, 1)),
    ((2, 9, 7, 3), (2, 3, 3, 4), (2, 3), [(1, 0), (0, 2)], (1, 1)),  # windows side by side, the last pixels in none
    ((2, 8, 8, 12), (2, 2, 12, 5), (2, 2), [(0, 0), (0, 0)], (1, 1)),
    ((1, 130, 129, 64), (2, 2, 64, 3), (2, 2), [(1, 0), (0, 1)], (1, 1)),  # a product on every path
    ((2, 3, 7, 4, 5), (2, 3, 1, 5, 3), (2, 3, 1), [(1, 0), (0, 2), (1, 0)], (1, 1, 1)),
    ((2, 12, 12, 9), (4, 4, 9, 6), (4, 4), [(-1, 0), (0, 0)], (1, 1)),
    ((2, 9, 9, 3), (2, 2, 3, 4), (2, 2), [(1, 0), (0, 0)], (2, 2)),
    (
        (3, 8, 16, 21),
        (7, 7, 21, 13),
        (7, 7),
        [(-2, 2), (0, 0)],
        (1, 1),
    ),  # which XLA computes wrong, reading beyond x
    (
        (3, 20, 20, 12),
        (1, 1, 12, 7),
        (1, 1),
        [(0, 0), (0, 0)],
        (1, 1),
    ),  # more pixels than oneDNN takes as one product
    ((3, 20, 20, 12), (1, 1, 12, 7), (1, 2), [(0, 0), (0, 0)], (1, 1)),
    ((3, 20, 20, 12), (1, 1, 12, 7), (3, 2), [(0, 0), (0, 0)], (1, 1)),
    ((2, 9, 9, 1), (5, 5, 1, 6), (1, 1), [(2, 2), (2, 2)], (1, 1)),  # one input
    ((2, 9, 9, 1), (3, 3, 1, 6), (2, 2), [(1, 1), (0, 1)], (2, 2)),
    ((2, 9, 8, 3), (3, 3, 3, 8), (2, 1), [(1, 1), (0, 1)], (1, 2)),  # few: 27 terms
    ((2, 5, 5, 3), (3, 3, 3, 76), (1, 1), [(1, 1), (1, 1)], (1, 1)),  # but many outputs
    ((2, 9, 8, 6), (5, 5, 6, 7), (1, 1), [(0, 0), (1, 3)], (1, 1)),
    ((2, 9, 8, 20), (3, 2, 20, 10), (1, 1), [(3, 0), (0, 2)], (1, 3)),  # half as many outputs as inputs
    ((2, 5, 6, 4, 18), (2, 3, 1, 18, 3), (1, 1, 1), [(1, 2), (1, 0), (2, 0)], (2, 1, 1)),
    ((2, 9, 6), (3, 6, 3), (1,), [(1, 4)], (2,)),
    ((3, 2, 1, 12), (3, 3, 12, 20), (1, 1), [(1, 1), (2, 1)], (1, 1)),  # a picture smaller than the window
    ((3, 4, 2, 12), (3, 3, 12, 20), (2, 1), [(2, 3), (3, 2)], (2, 3)),
    ((2, 9, 8, 12), (3, 3, 12, 7), (1, 1), [(2, 2), (1, 0)], (2, 1)),  # many
    ((2, 9, 8, 12), (3, 2, 12, 7), (2, 1), [(1, 1), (4, 0)], (1, 2)),
    ((2, 9, 8, 12), (1, 1, 12, 7), (2, 2), [(0, 0), (0, 0)], (1, 1)),
    ((2, 9, 8, 12), (1, 1, 12, 7), (1, 2), [(1, 0), (0, 3)], (1, 1)),  # whole windows beyond the picture
    ((2, 30, 12), (11, 12, 7), (4,), [(0, 0)], (1,)),
    ((2, 6, 18, 16), (2, 3, 16, 16), (1, 1), [(3, 0), (3, 3)], (1, 1)),  # windows beyond the picture
    ((1, 1, 2), (2, 2, 1), (2,), [(1, 0)], (1,)),  # a picture smaller than the stride
    ((2, 2, 1), (2, 1, 16), (3,), [(0, 2)], (1,)),
    ((2, 2, 5, 3), (3, 2, 3, 16), (3, 2), [(0, 2), (0, 0)], (1, 1)),
    ((2, 5, 5, 4, 9), (3, 3, 2, 9, 3), (1, 2, 1), [(1, 1)] * 3, (1, 1, 1)),
]


@BOTH
def test_convolution_of_the_shapes_that_have_a_form_of_their_own(path, dtype):
    check(path, dtype, [convolution_case(dtype, *form) for form in FORMS])


def test_a_portable_sum_of_few_inputs_is_rounded_once():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in ((4, 16, 16, 3), (3, 3, 3, 16)))
    patches = np.lib.stride_tricks.sliding_window_view(np.float64(x), (3, 3), (1, 2))
    exact = np.einsum("bhwcij,ijco->bhwo", patches, np.float64(w)).astype(np.float32).astype(jnp.bfloat16)
    with kernels.using(kernels.PORTABLE):
        y = kernels.convolution(x, w, (1, 1), "VALID", dimension_numbers=kernels.channels_last(2))
    assert np.mean(np.asarray(y) != exact) < 1e-3  # float32 may lie on the other side of a tie


@pytest.mark.parametrize(
    "x, w, convolutions, turned",
    [
        ((2, 8, 8, 3), (3, 3, 3, 8), 1, 0),  # of dw alone: y is a sum
        ((2, 8, 8, 3), (3, 3, 3, 76), 2, 0),
        ((2, 8, 8, 32), (3, 3, 32, 16), 2, 1),  # dw from dy's windows
        ((2, 8, 8, 31), (3, 3, 31, 16), 2, 0),
        ((2, 8, 8, 51), (3, 3, 51, 17), 2, 1),
        ((2, 8, 8, 50), (3, 3, 50, 17), 2, 0),
        ((2, 8, 8, 195), (3, 3, 195, 65), 2, 0),
    ],
)
def test_forms_that_a_portable_convolution_takes(x, w, convolutions, turned):
    conv = lambda x, w: kernels.convolution(x, w, (1, 1), "SAME", dimension_numbers=kernels.channels_last(2))
    with kernels.using(kernels.PORTABLE):
        value_and_dw = jax.jit(jax.value_and_grad(lambda w, x: (conv(x, w) ** 2).sum()))
        text = value_and_dw.lower(jnp.ones(w), jnp.ones(x)).as_text()
    assert (text.count("stablehlo.convolution"), text.count("stablehlo.reverse")) == (convolutions, turned)


@pytest.mark.parametrize("side, dilation, padded", [(2, 1, 1), (3, 1, 0), (4, 2, 1), (5, 2, 0)])
def test_a_picture_smaller_than_its_window_is_padded_before_on_the_portable_path(side, dilation, padded):
    """XLA takes a picture of 2x2 pixels by windows of 3x3 and 512 channels 30 times as slowly as one with zeros around."""
    conv = lambda x, w: kernels.convolution(
        x, w, (1, 1), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=kernels.channels_last(2)
    )
    with kernels.using(kernels.PORTABLE):
        text = jax.jit(conv).lower(jnp.ones((2, side, side, 16)), jnp.ones((3, 3, 16, 16))).as_text()
    assert text.count("stablehlo.pad") == padded


GROUPED = [  # x, w, strides, pads, dilation, groups
    ((2, 7, 6, 5), (3, 2, 1, 10), (1, 2), [(1, 1), (0, 1)], (1, 1), 5),  # two kernels a channel
    ((4, 16, 16, 16), (3, 3, 1, 16), (1, 1), [(1, 1), (1, 1)], (1, 1), 16),
    ((4, 16, 16, 16), (7, 7, 1, 16), (1, 1), [(3, 3), (3, 3)], (1, 1), 16),  # rounded once, not place by place
    ((2, 19, 20, 5), (9, 6, 1, 5), (2, 3), [(4, 3), (0, 2)], (2, 1), 5),
    ((2, 50, 3), (40, 1, 3), (3,), [(0, 5)], (1,), 3),
    ((2, 7, 6, 8, 3), (4, 5, 6, 1, 3), (1, 2, 1), [(1, 2), (2, 2), (0, 0)], (1, 1, 1), 3),
    ((2, 9, 9, 4), (6, 6, 1, 4), (2, 2), [(0, 2), (-1, 1)], (1, 1), 4),
    ((3, 2, 2, 20), (7, 7, 1, 20), (1, 1), [(3, 3), (3, 3)], (1, 1), 20),  # oneDNN: columns by threes, of zeros
    ((3, 2, 3, 20), (3, 3, 1, 20), (1, 1), [(1, 1), (1, 1)], (1, 1), 20),
    ((8, 14, 15, 18), (5, 5, 1, 18), (2, 1), [(1, 2), (2, 0)], (1, 1), 18),
    ((2, 9, 9, 16), (3, 4, 1, 16), (1, 3), [(2, 0), (0, 5)], (1, 1), 16),
    ((2, 9, 9, 16), (4, 4, 1, 16), (2, 2), [(6, 1), (0, 4)], (1, 1), 16),  # whole windows beyond the picture
    ((2, 9, 9, 16), (3, 5, 1, 16), (1, 2), [(2, 2), (4, 4)], (2, 2), 16),
    ((2, 9, 9, 6), (4, 4, 1, 6), (4, 4), [(1, 0), (0, 2)], (1, 1), 6),  # side by side
    ((3, 7, 6, 6), (7, 6, 1, 6), (1, 1), [(0, 0), (0, 0)], (1, 1), 6),  # one position
    ((3, 5, 8, 6), (7, 6, 1, 6), (2, 3), [(2, 1), (-1, 1)], (1, 1), 6),
    ((2, 700, 4), (50, 1, 4), (30,), [(3, 0)], (1,), 4),
    ((1, 7, 8, 9, 3), (5, 6, 7, 1, 3), (2, 1, 1), [(2, 1), (0, 0), (3, 3)], (1, 1, 1), 3),
    ((4, 30, 16), (9, 1, 16), (2,), [(4, 4)], (1,), 16),  # oneDNN: a picture of one column
    ((3, 3, 16), (5, 1, 16), (1,), [(2, 2)], (1,), 16),
    ((2, 30, 16), (3, 1, 16), (1,), [(2, 2)], (2,), 16),
    ((2, 6, 5, 7, 8), (3, 3, 3, 1, 8), (1, 2, 1), [(1, 1)] * 3, (1, 1, 1), 8),
    ((1, 130, 129, 64), (2, 2, 32, 6), (2, 2), [(0, 0), (0, 1)], (1, 1), 2),
    ((2, 6, 5, 36), (3, 3, 2, 54), (2, 1), [(1, 0), (1, 1)], (1, 1), 18),
    ((1, 1, 9, 48), (1, 1, 16, 6), (4, 4), [(3, 0), (3, 5)], (3, 2), 3),
]


@BOTH
def test_convolution_in_groups(path, dtype):
    check(path, dtype, [convolution_case(dtype, *form) for form in GROUPED])


@pytest.mark.parametrize("window, stride, pads", [(3, 1, 9), (3, 2, 9), (5, 1, 1), (5, 2, 1), (4, 4, 1), (8, 1, 1)])
def test_forms_of_a_portable_depthwise_input_gradient(window, stride, pads):
    """Nine places are spread one by one; of more the output is spaced; side by side, or of one position, nothing is added."""
    conv = lambda x, w: kernels.convolution(
        x, w, (stride,) * 2, "VALID", feature_group_count=3, dimension_numbers=kernels.channels_last(2)
    )
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((window, window, 1, 3))
    with kernels.using(kernels.PORTABLE):
        dx = jax.jit(lambda w, dy: jax.linear_transpose(lambda x: conv(x, w), x)(dy))
        text = dx.lower(w, jax.eval_shape(conv, x, w)).as_text()
    assert text.count("stablehlo.pad") == pads
    assert ("stablehlo.add" in text) == (window not in (4, 8))


@pytest.mark.parametrize(
    "x, w, stride, kinds",
    [
        ((2, 11, 11, 16), (1, 1, 16, 8), 1, "ppp"),
        ((2, 22, 21, 16), (1, 1, 16, 8), 2, "ppp"),
        ((3, 11, 11, 16), (1, 1, 16, 8), 1, "ccc"),  # 363 pixels
        ((1, 128, 128, 64), (2, 2, 64, 8), 2, "ccp"),
        ((1, 128, 126, 64), (2, 2, 64, 8), 2, "ccc"),
        ((1, 128, 128, 63), (2, 2, 63, 8), 2, "ccc"),
        ((1, 128, 128, 64), (3, 3, 64, 8), 2, "ccc"),
    ],
)
def test_forms_that_onednn_computes_as_products(onednn, monkeypatch, x, w, stride, kinds):
    """Of y, dx and dw: a product or a convolution."""
    taken = []
    for name in ("product", "convolution"):
        call = getattr(calls, name)
        monkeypatch.setattr(calls, name, lambda *a, call=call, name=name: taken.append(name[0]) or call(*a))
    conv = lambda x, w: kernels.convolution(x, w, (stride,) * 2, "VALID", dimension_numbers=kernels.channels_last(2))
    with kernels.using(onednn):
        jax.jit(jax.grad(lambda x, w: (conv(x, w) ** 2).sum(), (0, 1))).lower(jnp.ones(x), jnp.ones(w))
    assert sorted(taken) == sorted(kinds)


@pytest.mark.parametrize(
    "x, window, dilation, many",
    [
        ((2, 14, 14, 16), (3, 3), 1, 3),  # a call each
        ((2, 14, 14, 16), (7, 2), 1, 3),
        ((2, 14, 14, 16), (3, 7), 1, 2 + 3),  # seven columns by threes
        ((2, 14, 14, 16), (3, 3), 2, 1),  # no gradient
        ((2, 40, 16), (9,), 1, 3),
        ((2, 9, 9, 9, 16), (5, 5, 6), 1, 3),
        ((2, 6, 6, 6, 16), (3, 3, 3), 1, 0),
    ],
)
def test_forms_that_onednn_computes_of_depthwise_convolutions(onednn, x, window, dilation, many):
    axes = len(window)
    conv = lambda x, w: kernels.convolution(
        x, w, (1,) * axes, "SAME", rhs_dilation=(dilation,) * axes, feature_group_count=16,
        dimension_numbers=kernels.channels_last(axes),
    )  # fmt: skip
    with kernels.using(onednn):
        step = jax.jit(jax.value_and_grad(lambda x, w: (conv(x, w) ** 2).sum(), (0, 1)))
        text = step.lower(jnp.ones(x), jnp.ones((*window, 1, 16))).as_text()
    assert text.count("stablehlo.custom_call @cnnjax") == many


@pytest.mark.parametrize("few, many", [((5, 64, 64), (15, 64, 64)), ((3, 64, 8), (3, 256, 128))])
def test_portable_programs_do_not_grow_with_window_and_groups(few, many):
    """(size of the window, channels, groups)."""

    def operations(size, channels, groups):
        x, w = jnp.ones((1, 8, 8, channels)), jnp.ones((size, size, channels // groups, channels))
        conv = lambda x, w: kernels.convolution(
            x, w, (1, 1), "SAME", dimension_numbers=kernels.channels_last(2), feature_group_count=groups
        )
        with kernels.using(kernels.PORTABLE):
            return jax.jit(jax.grad(lambda x, w: conv(x, w).sum(), (0, 1))).lower(x, w).as_text().count(" = ")

    assert operations(*many) < operations(*few)


@pytest.mark.parametrize("pads", ([(1, -1), (2, 1), (0, 0)], [(-2, 0), (0, 0), (0, 3)]))
def test_transposed_convolution_takes_pixels_away(any_path, pads):
    rng = np.random.default_rng(0)
    x, w = (jnp.float32(rng.normal(size=shape)) for shape in ((2, 5, 4, 3, 3), (3, 2, 3, 3, 4)))
    expected, pull = jax.vjp(lambda x, w: jax.lax.conv_transpose(x, w, (2, 1, 3), pads), x, w)
    dy = jnp.float32(rng.normal(size=expected.shape))
    transposed = lambda x, w: kernels.conv_transpose(x, w, (2, 1, 3), pads)
    (results,) = computed(any_path, [Case(pads, transposed, (x, w), dy, ())])
    for found, reference in zip(results, (expected, *pull(dy)), strict=True):
        assert found.shape == reference.shape
        np.testing.assert_allclose(found, reference, atol=1e-4)


def test_a_padding_that_is_none_is_refused_as_in_lax():
    for path in (kernels.XLA, kernels.ONEDNN, kernels.PORTABLE):
        with kernels.using(path), pytest.raises(ValueError, match="FOO"):
            kernels.conv_transpose(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 3)), (2, 2), "FOO")


SPREAD = [((2, 2), (2, 2), 1), ((3, 3), (2, 2), 1), ((4, 3), (3, 1), 1), ((3,), (2,), 2), ((2, 3, 2), (2, 1, 3), 1)]


def test_transposed_convolution_spreads_its_input(any_path):
    cases, by_hand = [], []
    for (size, strides, dilation), padding in itertools.product(SPREAD, ("SAME", "VALID", "pairs")):
        rng, axes = np.random.default_rng(0), len(size)
        x, w = rng.normal(size=(2, *(5, 4, 3)[:axes], 3)), rng.normal(size=(*size, 3, 4))
        full = [(n - 1) * s + (k - 1) * dilation + 1 for n, s, k in zip(x.shape[1:-1], strides, size)]
        y = np.zeros((2, *full, 4))
        for place in np.ndindex(*size):  # out[s * i + d * (k - 1 - j)] += x[i] w[j]
            at = [slice(d := dilation * (k - 1 - j), d + (n - 1) * s + 1, s)
                  for j, k, n, s in zip(place, size, x.shape[1:-1], strides)]  # fmt: skip
            y[(slice(None), *at)] += x @ w[place]
        given = dict(padding=[(1, 2)] * axes if padding == "pairs" else padding, rhs_dilation=(dilation,) * axes)
        x, w = map(jnp.float32, (x, w))
        expected = jax.lax.conv_transpose(x, w, strides, **given)
        function = lambda x, w, s=strides, given=given: kernels.conv_transpose(x, w, s, **given)
        cases.append(Case((size, strides, dilation, padding), function, (x, w), expected, (expected,)))
        whole = padding == "VALID" and all(k >= s for k, s in zip(size, strides)) and dilation == 1
        by_hand.append(y if whole else None)
    for case, (found, *_), y in zip(cases, computed(any_path, cases), by_hand, strict=True):
        assert found.shape == case.expected[0].shape, case.name
        np.testing.assert_allclose(found, case.expected[0], atol=1e-4, err_msg=str(case.name))
        if y is not None:
            close(found, y, jnp.float32, case.name)


TRANSPOSED = [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((4, 3), (3, 1)), ((3,), (3,)), ((2, 3, 2), (2, 3, 2))]


@BOTH
def test_transposed_convolution_and_its_gradients(any_path, dtype):
    check(any_path, dtype, [transposed_case(dtype, size, strides) for size, strides in TRANSPOSED])


def transposed_case(dtype, size, strides):
    rng, axes = np.random.default_rng(0), len(size)
    x, x64 = rounded(rng.normal(size=(2, *(5, 4, 3)[:axes], 3)), dtype)
    w, w64 = rounded(rng.normal(size=(*size, 3, 4)), dtype)
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[1:-1], strides, size)]
    dy, dy64 = rounded(rng.normal(size=(2, *full, 4)), dtype)
    y64, dx64, dw64 = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for place in np.ndindex(*size):  # y[s * i + k - 1 - j] += x[i] w[j]
        start = [k - 1 - j for k, j in zip(size, place)]
        at = (slice(None), *(slice(d, d + (n - 1) * s + 1, s) for d, n, s in zip(start, x.shape[1:-1], strides)))
        y64[at] += x64 @ w64[place]
        dx64 += dy64[at] @ w64[place].T
        dw64[place] = np.tensordot(x64, dy64[at], [range(axes + 1)] * 2)
    function = lambda x, w: kernels.conv_transpose(x, w, strides, "VALID")
    return Case((size, strides), function, (x, w), dy, (y64, dx64, dw64))


def test_a_gpus_transposed_convolution_dilates_no_input():
    """Of windows side by side: cuDNN would get the input with its gaps filled with zeros."""

    def dilated(path, precision=None):
        transposed = lambda x, w: (kernels.conv_transpose(x, w, (2, 2), "SAME", precision=precision) ** 2).sum()
        with kernels.using(path):
            program = jax.jit(jax.grad(transposed, (0, 1))).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 4)))
        return program.as_text().count("lhs_dilate = [2, 2]")

    assert dilated(kernels.XLA) > 0 and dilated(kernels.GPU) == 0
    assert dilated(kernels.GPU, jax.lax.Precision.HIGHEST) > 0, "XLA's, which knows of precision"


@pytest.mark.parametrize("side", (2, 3), ids=("side by side", "overlapping"))
def test_a_gpus_transposed_convolution_is_as_precise_as_its_trace_was_told(side):
    """A step is traced under config.matmul_precision, and lowered outside of it."""

    def loss(x, w):
        with jax.default_matmul_precision("highest"), kernels.using(kernels.GPU):
            return (kernels.conv_transpose(x, w, (2, 2), "SAME") ** 2).sum()

    arrays = jnp.ones((2, 8, 8, 3)), jnp.ones((side, side, 3, 4))
    assert "cnnjax_convolution" in str(jax.make_jaxpr(loss)(*arrays))
    program = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) == 3 and all("HIGHEST" in line and "DEFAULT" not in line for line in products)


@BOTH
@SEEDED
def test_dense_and_its_gradients(path, dtype, seed):
    sizes = several(lambda rng: rng.integers(1, 41, 3).tolist(), seed)
    check(path, dtype, [dense_case(dtype, *size, seed) for size in sizes])


@BOTH
def test_dense_of_large_matrices(path, dtype):
    check(path, dtype, [dense_case(dtype, *size, 0) for size in ((4, 512, 300), (700, 300, 256), (1, 70000, 1))])


def dense_case(dtype, rows, inner, columns, seed):
    rng = np.random.default_rng(seed)
    a, a64 = rounded(rng.normal(size=(rows, inner)), dtype)
    b, b64 = rounded(rng.normal(size=(inner, columns)), dtype)
    dy, dy64 = rounded(rng.normal(size=(rows, columns)), dtype)
    function = lambda a, b: kernels.dense(a, b, (((1,), (0,)), ((), ())))
    return Case((rows, inner, columns, seed), function, (a, b), dy, (a64 @ b64, dy64 @ b64.T, a64.T @ dy64))


def a_pooling(rng):
    """(x shape, window, strides, pads)"""
    axes = rng.integers(1, 4)
    many = lambda low, high: rng.integers(low, high + 1, axes).tolist()
    window, strides = tuple(many(1, 4)), tuple(many(1, 3))
    least = int(rng.choice((0, 0, -2)))
    pads = [(int(rng.integers(least, k)), int(rng.integers(least, k))) for k in window]
    sizes = [k + 2 * max(0, -least) + more for k, more in zip(window, many(0, 7))]
    return (2, *sizes, int(rng.integers(1, 21))), window, strides, pads


@BOTH
@SEEDED
def test_max_pool_and_its_gradient(any_path, dtype, seed):
    check(any_path, dtype, [pooling_case(dtype, *drawn, seed) for drawn in several(a_pooling, seed)])


POOLED = [  # x, window, strides, pads
    ((2, 9, 3), (2,), (3,), [(0, 0)]),  # pixels that no window has
    ((2, 8, 7, 20), (3, 2), (2, 1), [(1, 0), (0, 1)]),
    ((2, 8, 7, 3), (2, 3), (2, 2), [(-1, 0), (1, -2)]),  # pixels taken away
    ((2, 5, 4, 6, 3), (2, 1, 3), (1, 1, 2), [(1, 0), (0, 0), (2, 2)]),
]


@BOTH
def test_max_pool_of_one_to_three_axes(any_path, dtype):
    check(any_path, dtype, [pooling_case(dtype, *pooling, 0) for pooling in POOLED])


def pooling_case(dtype, shape, window, strides, pads, seed):
    """Of whole numbers below zero: many ties, and no padding is as large."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-6, -1, shape).astype(np.float64)
    y64, _ = references.max_pool(x, None, window, strides, pads)
    dy, dy64 = rounded(rng.normal(size=y64.shape), dtype)
    function = lambda x: kernels.max_pool(x, window, strides, pads)
    expected = references.max_pool(x, dy64, window, strides, pads)
    return Case((shape, window, strides, pads), function, (jnp.asarray(x, dtype),), dy, expected)


def test_the_first_of_equal_pixels_gets_the_gradient_as_in_lax(any_path):
    """After ReLU whole windows are zero."""
    x, cases = jnp.zeros((1, 6, 6, 17)), []
    for window, strides in (((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 3), (1, 1))):
        pool = lambda x, w=window, s=strides: kernels.max_pool(x, w, s, ((0, 0), (0, 0)))
        expected = jax.grad(lambda x: pool(x).sum())(x)  # noqa: B023 (XLA's path: lax.reduce_window)
        cases.append(Case((window, strides), pool, (x,), jnp.ones_like(pool(x)), (expected,)))
    for case, (_, found) in zip(cases, computed(any_path, cases), strict=True):
        np.testing.assert_array_equal(found, case.expected[0], err_msg=str(case.name))


def test_float64_stays_float64(any_path):
    """What oneDNN does not compute in is not rounded to what it does."""
    x, dy = np.random.default_rng(0).normal(size=(2, 1, 6, 6, 3))
    with jax.enable_x64(True):
        _, dx = references.max_pool(x, dy[:, ::2, ::2], (2, 2), (2, 2), [(0, 0)] * 2)
        pool = lambda x: kernels.max_pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
        ((_, found),) = computed(any_path, [Case("", pool, (jnp.float64(x),), jnp.float64(dy[:, ::2, ::2]), ())])
        np.testing.assert_array_equal(found, dx)


def test_max_pool_hides_no_nan(any_path):
    x = np.zeros((1, 4, 4, 8), np.float32)
    x[0, 1, 1, 0] = np.nan
    x[0, :2, :2, 1] = -np.inf
    with kernels.using(any_path):
        y = kernels.max_pool(jnp.asarray(x), (2, 2), (2, 2), ((0, 0), (0, 0)))
    assert np.isnan(y[0, 0, 0, 0]) and np.isnan(np.asarray(y)).sum() == 1
    assert y[0, 0, 0, 1] == -np.inf


@pytest.mark.parametrize("mean", (0, 100))
def test_batch_norm_of_many_values(path, mean):
    """Where sums of one value after another would be 1e-5 off; dscale cannot be exacter than the mean is."""
    rng, shape = np.random.default_rng(0), (8, 128, 128, 16)
    (x, x64), (dy, dy64) = (
        rounded(rng.normal(mean, 1, shape), jnp.float32),
        rounded(rng.normal(size=shape), jnp.float32),
    )
    (scale, scale64), (bias, bias64) = (rounded(rng.normal(size=16), jnp.float32) for _ in range(2))
    *expected, dscale64, dbias64, _ = references.batch_norm(x64, scale64, bias64, dy64, 1e-5)
    function = lambda x, scale, bias: kernels.batch_norm(x, scale, bias, 1e-5)[0]
    ((y, dx, dscale, dbias),) = computed(path, [Case(mean, function, (x, scale, bias), dy, ())])
    with kernels.using(path):
        statistics = jax.jit(lambda: kernels.batch_norm(x, scale, bias, 1e-5)[1:])()
    for found, reference in zip((y, *statistics, dx, dbias), (*expected, dbias64), strict=True):
        close(found, reference, jnp.float32)
    np.testing.assert_allclose(dscale, dscale64, atol=(5e-5 if mean else 1e-5) * np.abs(dscale64).max(), rtol=0)


def a_shape(rng):
    """[B, *spatial, C], of none to three axes."""
    sizes = rng.integers(1, 10, rng.integers(1, 5)).tolist()
    return *sizes, int(rng.choice((1, 2, 3, 8, 16, 17, 19, 24, 32, 40, 48, 65)))


@BOTH
@SEEDED
def test_batch_norm_and_its_gradients(path, dtype, seed):
    rng, cases, statistics = np.random.default_rng(seed), [], []
    for shape in several(a_shape, seed):
        shape = (shape[0] + 2, *shape[1:])
        (x, x64), (dy, dy64) = rounded(rng.normal(3, 2, shape), dtype), rounded(rng.normal(size=shape), dtype)
        (scale, scale64), (bias, bias64) = (rounded(rng.normal(size=shape[-1]), jnp.float32) for _ in range(2))
        y64, mean, var, *gradients, added = references.batch_norm(x64, scale64, bias64, dy64, 0.1)
        function = lambda x, scale, bias: kernels.batch_norm(x, scale, bias, 0.1)[0]
        cases.append(Case(shape, function, (x, scale, bias), dy, (y64, *gradients)))
        statistics.append((mean, var, added))
    results = computed(path, cases)
    with kernels.using(path):
        of_batches = jax.jit(lambda batches: [kernels.batch_norm(*arrays, 0.1)[1:] for arrays in batches])
        found_statistics = of_batches([case.arrays for case in cases])
    for case, (y, dx, dscale, dbias), found, (mean, var, added) in zip(
        cases, results, found_statistics, statistics, strict=True
    ):
        y64, dx64, dscale64, dbias64 = case.expected
        close(y, y64, dtype, case.name)
        close(dx, dx64, dtype, case.name)
        # The sum of a single channel may come out near zero by chance: what it adds up says how exact it can be.
        sizes = 0, 0, *(0.1 * size for size in added)
        sums = zip((*found, dscale, dbias), (mean, var, dscale64, dbias64), sizes, strict=True)
        for each, reference, size in sums:
            assert each.dtype == jnp.float32
            atol = EXACT[dtype] * (max(np.abs(reference).max(), size) or 1)
            np.testing.assert_allclose(each, reference, atol=atol, rtol=0, err_msg=str(case.name))


KINDS = ((5, 0.75), (5, 0.75), (3, 0.5), (7, 0.75))


@BOTH
@SEEDED
def test_response_norm_and_its_gradient(any_path, dtype, seed):
    drawn = several(lambda rng: (a_shape(rng), KINDS[rng.integers(len(KINDS))]), seed)
    check(any_path, dtype, [response_case(dtype, shape, *kind, seed) for shape, kind in drawn])


@BOTH
def test_response_norm_of_many_channels(any_path, dtype):
    channels = (15, 16, 17, 19, 20, 24, 31, 32, 33, 40, 48, 50, 65, 96)
    cases = [response_case(dtype, (2, 5, 4, n), 5, 0.75, 0) for n in channels]
    cases += [response_case(dtype, (2, 5, 4, 17), n, beta, 0) for n, beta in ((3, 0.5), (7, 0.75), (7, 1.0))]
    check(any_path, dtype, cases)


def response_case(dtype, shape, n, beta, seed):
    rng = np.random.default_rng(seed)
    (x, x64), (dy, dy64) = rounded(3 * rng.normal(size=shape), dtype), rounded(rng.normal(size=shape), dtype)
    expected = references.response_norm(x64, dy64, n, 1.0, 0.1, beta)
    function = lambda x: kernels.local_response_norm(x, n=n, k=1.0, alpha=0.1, beta=beta)
    return Case((shape, n, beta), function, (x,), dy, expected)


@BOTH
@SEEDED
def test_a_bias_gets_the_sum_over_all_positions(path, dtype, seed):
    check(path, dtype, [bias_case(dtype, shape, seed) for shape in several(a_shape, seed)])


@BOTH
def test_a_bias_gets_the_sum_over_many_positions(path, dtype):
    shapes = [(7, 1), (131, 3), (2, 128, 64, 5), (4096, 70)]
    check(path, dtype, [bias_case(dtype, shape, 0) for shape in shapes])


def bias_case(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    (y, y64), (bias, bias64) = rounded(rng.normal(size=shape), dtype), rounded(rng.normal(size=shape[-1]), dtype)
    dy, dy64 = rounded(rng.normal(size=shape), dtype)
    dbias = dy64.reshape(-1, shape[-1]).sum(0)
    return Case(shape, kernels.add_bias, (y, bias), dy, (y64 + bias64, dy64, dbias))


SQUARES = [(), (1,), (7,), (0, 3), (3, 5), (8, 2, 4), (3, 3, 5, 7), (1001, 999)]


def test_square_sum_and_its_gradient(any_path):
    cases = []
    for shape in SQUARES:
        x, x64 = rounded(np.random.default_rng(0).normal(size=shape), jnp.float32)
        cases.append(Case(shape, kernels.square_sum, (x,), jnp.ones(()), ((x64**2).sum(), 2 * x64)))
    check(any_path, jnp.float32, cases)

"""Fields of view against the textbook's formula, published figures, and an oracle that pokes every pixel."""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.inspection.certificate import certify, positive
from cnnjax.inspection.field_of_view import field_of_view, fields_of_view

# --- The oracle -------------------------------------------------------------------------------------------------------


def poked(function, image):
    """low, high `[positions]` for each spatial axis, found by changing all pixels of one row (column, ...) at a time.

    The functions tested have positive weights, so that a large positive change cannot cancel.
    """
    function, image = jax.jit(function), np.asarray(image)
    result, before = [], np.asarray(function(image))
    for axis in range(1, image.ndim - 1):
        changed = []
        for position in range(image.shape[axis]):
            where = np.arange(image.shape[axis]) == position
            where = where.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
            after = np.asarray(function(image + 100 * where.astype(image.dtype)))
            others = tuple(a for a in range(before.ndim) if a != axis or before.ndim != image.ndim)
            changed.append(np.atleast_1d((after != before).any(others)))
        changed = np.stack(changed)  # [input positions, output positions]
        sees = changed.any(0)
        low = np.where(sees, changed.argmax(0), image.shape[axis])
        high = np.where(sees, len(changed) - 1 - changed[::-1].argmax(0), -1)
        result.append((low, high))
    return result


def agrees(function, shape, seed=0):
    image = np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)
    views = field_of_view(function, image)
    for view, (low, high) in zip(views, poked(function, image), strict=True):
        np.testing.assert_array_equal(view.low, low)
        np.testing.assert_array_equal(view.high, high)
    return views


def positive_layer(layer, shape):
    """A layer with positive weights, as a function of the image alone."""
    variables = jax.jit(lambda *inputs: positive(layer.init(*inputs)))(jax.random.key(0), np.ones(shape, np.float32))
    return lambda x: layer.apply(variables, x)


LAYERS = {
    "convolution": layers.Conv(3, (3,)),
    "even kernel, odd stride": layers.Conv(3, (4,), strides=3),
    "valid": layers.Conv(3, (5,), strides=2, padding="VALID"),
    "uneven padding": layers.Conv(3, (3,), padding=((2, 0),)),
    "much padding": layers.Conv(3, (3,), padding=((4, 5),)),
    "dilated": layers.Conv(3, (3,), kernel_dilation=3),
    "grouped": layers.Conv(4, (3,), feature_group_count=2),
    "edge": layers.Conv(3, (5,), padding_mode="edge"),
    "reflect": layers.Conv(3, (5,), padding_mode="reflect"),
    "circular": layers.Conv(3, (5,), padding="CIRCULAR"),
    "causal": layers.Conv(3, (4,), padding="CAUSAL"),
    "transposed": layers.ConvTranspose(3, (2,), strides=(2,)),
    "transposed, overlapping": layers.ConvTranspose(3, (5,), strides=(3,)),
    "interpolated": layers.InterpolateConv(3, (3,)),
    "interpolated linearly": layers.InterpolateConv(3, (3,), scale=3, method="linear"),
    "unshared": layers.LocallyConnected(3, (3,), padding="VALID"),
    "unshared, dilated, with stride": layers.LocallyConnected(3, (3,), strides=2, kernel_dilation=2),
    "max pooling": layers.MaxPool((2,)),
    "overlapping max pooling": layers.MaxPool((3,), (2,), padding=1),
    "average pooling": layers.AveragePool((3,), (2,)),
    "average of what is there": layers.AveragePool((3,), (2,), padding=1, count_include_pad=False),
    "local response": layers.LocalResponseNorm(),
    "squeeze and excite": layers.SqueezeExcite(2),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [9, 12])
def test_layers_see_what_the_oracle_finds(name, size):
    shape = (1, size, 4)
    agrees(positive_layer(LAYERS[name], shape), shape)


FUNCTIONS = {
    "identity": lambda x: x,
    "skip connection": lambda x: x + positive_layer(layers.Conv(4, (5,)), x.shape)(x),
    "branches side by side": lambda x: jnp.concatenate([x[:, 1:-1], x[:, :-2] + x[:, 2:]], -1),
    "side by side on an axis of their own": lambda x: jnp.stack([x[:, :-2], x[:, 1:-1] * 2, x[:, 2:]], -1).reshape(1, -1, 12),
    "stacked and added up": lambda x: jnp.stack([x[:, :-3], x[:, 3:], jnp.ones_like(x[:, 3:])]).sum(0),
    "only the wide branch": lambda x: jnp.concatenate([x[:, 1:-1], x[:, :-2] + x[:, 2:]], -1)[..., 4:],
    "reversed": lambda x: x[:, ::-1],
    "every third": lambda x: x[:, 1::3],
    "backwards by twos": lambda x: x[:, ::-2],
    "padded and cut": lambda x: jnp.pad(x, ((0, 0), (3, 2), (0, 0)))[:, 1:-4],
    "zeros between": lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 2), (0, 0, 0))),
    "wrapped": lambda x: jnp.pad(x, ((0, 0), (3, 2), (0, 0)), mode="wrap"),
    "rolled": lambda x: jnp.roll(x, 2, axis=1),
    "pixels to channels and back": lambda x: (x.reshape(1, -1, 3, 4) * 2).reshape(1, -1, 12).reshape(1, -1, 4),
    "folded": lambda x: x.reshape(1, -1, 3, 4).sum(2),
    "folded by a function of pairs": lambda x: jax.lax.reduce(
        (x.reshape(1, -1, 3, 4), jnp.roll(x, 2, 1).reshape(1, -1, 3, 4)),
        (0.0, 0.0),
        lambda a, b: (a[0] + a[1] + b[0] + b[1], a[1] + b[1]),
        (2,),
    )[0],
    "folded from a pixel on": lambda x: jax.lax.reduce(
        (x.reshape(1, -1, 3, 4) * 2,), (x[0, 5, 0],), lambda a, b: (a[0] + 2 * b[0],), (2,)
    )[0],
    "ones folded from a pixel on": lambda x: jax.lax.reduce(
        (jnp.ones((1, 4, 3, 4)),), (x[0, 5, 0],), lambda a, b: (a[0] + 2 * b[0],), (2,)
    )[0],
    "interleaved": lambda x: x.reshape(1, 3, -1, 4).swapaxes(1, 2).reshape(1, -1, 4),
    "cumulative": lambda x: jnp.cumsum(x, axis=1),
    "cumulative from behind": lambda x: jax.lax.cummax(x, axis=1, reverse=True),
    "everything": lambda x: x + x.mean(axis=1, keepdims=True),
    "masked": lambda x: x * (jnp.arange(x.shape[1]) % 2).reshape(1, -1, 1).astype(x.dtype),
    "chosen": lambda x: jnp.where((jnp.arange(x.shape[1]) < 4).reshape(1, -1, 1), x, jnp.roll(x, 1, axis=1)),
    "by a matrix": lambda x: jnp.einsum("ij,bjc->bic", jnp.tri(x.shape[1])[::2], x),
    "from the left by a matrix": lambda x: jnp.einsum("bjc,ji->bic", x, jnp.tri(x.shape[1], k=-1)),
    "taken": lambda x: x[:, jnp.array([4, 4, 0, 2])],
    "a fixed slice": lambda x: jax.lax.dynamic_slice(x, (0, 2, 0), (1, 4, 4)),
    "written into": lambda x: jnp.zeros_like(x).at[:, 2:5].set(x[:, 4:7]),
    "resized, nearest": lambda x: jax.image.resize(x, (1, 7, 4), "nearest"),
    "resized, linear": lambda x: jax.image.resize(x, (1, 20, 4), "linear"),
    "made smaller with a filter": lambda x: jax.image.resize(x, (1, 5, 4), "linear"),
    "compiled": lambda x: jax.jit(lambda y: y[:, 1:] + y[:, :-1])(x),
    "recomputed": lambda x: jax.checkpoint(lambda y: y[:, 1:] + y[:, :-1])(x),
    "blurred by a known kernel": lambda x: jax.lax.conv_general_dilated(
        x, (jnp.arange(5.0) % 2).reshape(5, 1, 1) * jnp.eye(4).reshape(1, 4, 4), (1,), "SAME",
        dimension_numbers=("NHC", "HIO", "NHC")),
    "scanned": lambda x: jax.lax.scan(lambda c, row: (c + row, c * 2 + row), x[:, 0], x.swapaxes(0, 1))[1].swapaxes(0, 1),
    "scanned from behind": lambda x: jax.lax.scan(
        lambda c, row: (0.5 * row, c + row), x[:, 0] * 0, x.swapaxes(0, 1), reverse=True)[1].swapaxes(0, 1),
    "repeated": lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1], x),
    "one of two branches": lambda x: jax.lax.cond(jnp.bool_(True), lambda y: y[:, 1:], lambda y: y[:, :-1], x),
    "activations": lambda x: nn.gelu(nn.silu(nn.relu(x)) + jnp.tanh(x) + nn.relu6(x) + nn.softplus(x)) ** 1.5,
    "softmax over channels": lambda x: x * nn.softmax(x * jnp.arange(4.0).reshape(1, 1, 4), axis=-1),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_see_what_the_oracle_finds(name):
    agrees(FUNCTIONS[name], (1, 12, 4))


@jax.custom_vjp
def shifted(x):
    return x[:, 1:] + x[:, :-1]


shifted.defvjp(lambda x: (shifted(x), None), lambda _, g: (jnp.pad(g, ((0, 0), (1, 0), (0, 0))),))


def test_functions_with_a_gradient_of_their_own():
    agrees(shifted, (1, 8, 2))


def test_axes_of_two_and_three_dimensions_are_told_apart():
    conv = layers.Conv(2, (3, 5), strides=(2, 1), kernel_dilation=(1, 2))
    height, width = agrees(positive_layer(conv, (1, 8, 11, 2)), (1, 8, 11, 2))
    assert (height.size, height.stride, width.size, width.stride) == (3, 2, 9, 1)

    class Volume(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.MaxPool((2, 2, 3))(layers.Conv(2, (3, 1, 3))(x))
            return layers.ConvTranspose(2, (2, 2, 2), strides=(1, 2, 1))(x)

    shape = (1, 5, 6, 7, 2)
    agrees(positive_layer(Volume(), shape), shape)


def test_a_flattened_head_sees_everything():
    (view,) = field_of_view(lambda x: x[:, 1:-1].reshape(1, -1) @ jnp.ones((6, 2)), jnp.ones((1, 5, 2)))
    np.testing.assert_array_equal([view.low, view.high], [[1], [3]])


# --- The textbook -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3)), min_size=1, max_size=5
    )
)
@example([(1, 3, 1, 1), (1, 3, 1, 0), (1, 1, 1, 0)])  # of 7 pixels: the one position there is sees only padding
def test_stacks_follow_the_formula(stack):
    """l_k = l_(k-1) + d (f_k - 1) * prod s_i, with padding p adding p * prod s_i; on an input shorter than that, too."""
    size, stride, padding = 1, 1, 0
    for kernel, step, dilation, pad in stack:
        size += dilation * (kernel - 1) * stride
        padding += pad * stride
        stride *= step

    def run(x):
        for kernel, step, dilation, pad in stack:
            ends = [(0, 0), (pad, pad), (0, 0)]
            x = jax.lax.reduce_window(
                x, 0.0, jax.lax.add, (1, kernel, 1), (1, step, 1), ends, window_dilation=(1, dilation, 1)
            )
        return x

    for length in (size + 3 * stride, 2 * size + 5):
        (view,) = fields_of_view(run, jax.ShapeDtypeStruct((1, length, 1), jnp.float32))
        assert (view.size, view.stride, view.padding) == (size, stride, padding)
        assert view.offset == (size - 1) / 2 - padding
        # Which of the input's positions a window has, gathered position by position (dilation leaves gaps).
        sees = [{position} for position in range(length)]
        for kernel, step, dilation, pad in stack:
            reach = dilation * (kernel - 1)
            starts = range(-pad, len(sees) + pad - reach, step)
            at = lambda n, sees=sees: sees[n] if 0 <= n < len(sees) else set()
            sees = [set().union(*(at(start + dilation * tap) for tap in range(kernel))) for start in starts]
        np.testing.assert_array_equal(view.low, [min(s, default=length) for s in sees])
        np.testing.assert_array_equal(view.high, [max(s, default=-1) for s in sees])


def plain(*windows):
    """A stack of (kernel, stride) without padding, the size of the field of view after each."""

    def run(x):
        outputs = []
        for kernel, stride in windows:
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, kernel, 1), (1, stride, 1), "VALID")
            outputs.append(x)
        return outputs

    return [view.size for (view,) in fields_of_view(run, jnp.ones((1, 99, 1)))]


def test_two_three_wide_layers_see_three_then_five_and_with_stride_two_seven():
    assert plain((3, 1), (3, 1), (3, 1)) == [3, 5, 7]
    assert plain((3, 2), (3, 2)) == [3, 7]


def test_mobilenet_v1_sees_315():
    """Its 27 layers (Howard et al. 2017, table 1), as the figures of Araujo et al. 2019 have it."""
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    windows = [(3, 2)] + [pair for stride in strides for pair in ((3, stride), (1, 1))]

    class MobileNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            for kernel, stride in windows:
                groups = 2 if kernel == 3 and x.shape[-1] == 2 else 1
                x = layers.Conv(2, (kernel,) * 2, strides=stride, padding=kernel // 2, feature_group_count=groups)(x)
            return x

    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    views = field_of_view(
        lambda x, v: MobileNet().apply(v, x), image, jax.eval_shape(MobileNet().init, jax.random.key(0), image)
    )
    assert [(v.size, v.stride) for v in views] == [(315, 32)] * 2


# --- Gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [lambda: layers.SqueezeExcite(2), lambda: layers.GroupNorm(num_groups=2)])
def test_gates_see_the_whole_image_and_can_be_cut(gate):
    class Gated(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.Conv(8, (3,), padding="VALID")(x)
            x = gate()(x)
            return layers.Conv(8, (3,), padding="VALID")(x)

    image = jnp.ones((1, 20, 8))
    variables = Gated().init(jax.random.key(0), image)
    function = lambda x: Gated().apply(variables, x)
    assert field_of_view(function, image)[0].size == 20
    (view,) = field_of_view(function, image, cut_gates=True)
    assert (view.size, view.stride, view.padding) == (5, 1, 0)


def test_parameters_that_a_function_closes_over_count_as_not_zero():
    """A scale that begins as zero is no proof that nothing is seen."""
    kernel, scale = jnp.zeros((3, 2, 2)), np.zeros(2, np.float32)
    conv = lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
    (view,) = field_of_view(lambda x: conv(x) * scale.reshape(1, 1, 2), jnp.ones((1, 9, 2)))
    assert view.size == 3


def test_of_branches_side_by_side_each_keeps_its_own():
    """On inputs shorter than either, so that only the law tells."""
    wide, narrow = (positive_layer(layers.Conv(2, (kernel,)), (1, 6, 4)) for kernel in (19, 9))
    joined = lambda x: jnp.concatenate([wide(x), narrow(x)], axis=-1)
    image = jnp.ones((1, 6, 4))
    assert field_of_view(joined, image)[0].size == 19
    # Whatever is taken of it sees the whole input, and of which branch it comes is no longer followed by the law.
    assert field_of_view(lambda x: joined(x)[..., 2:], image)[0].size == 6
    conv = positive_layer(layers.Conv(2, (3,)), (1, 6, 4))
    assert field_of_view(lambda x: conv(joined(x))[..., :1], image)[0].size == 21


def test_sorting_may_bring_anything_anywhere():
    (view,) = field_of_view(lambda x: jnp.sort(x, axis=1), jnp.ones((1, 7, 2)))
    np.testing.assert_array_equal([view.low, view.high], [[0] * 7, [6] * 7])


def test_a_branch_that_sees_to_both_borders_is_no_gate():
    """On an input shorter than the field of view all positions see all of it; they move by the law none the less."""
    branch = positive_layer(layers.Conv(4, (19,)), (1, 6, 4))
    (view,) = field_of_view(lambda x: x + branch(x), jnp.ones((1, 6, 4)), cut_gates=True)
    assert (view.size, view.stride) == (19, 1)


def test_normalisation_over_channels_is_no_gate():
    norm = layers.LayerNorm()
    variables = norm.init(jax.random.key(0), jnp.ones((1, 6, 4)))
    assert field_of_view(lambda x: norm.apply(variables, x), jnp.ones((1, 6, 4)))[0].size == 1


# --- What cannot be said ----------------------------------------------------------------------------------------------


def test_an_unknown_primitive_is_named_with_its_place():
    with pytest.raises(UserError, match=r"no rule for the primitive 'fft' at test_field_of_view.py:\d+"):
        field_of_view(lambda x: jnp.fft.rfft(x, axis=1).real, jnp.ones((1, 8, 1)))


def test_indices_made_of_the_image_are_not_guessed():
    with pytest.raises(
        UserError, match="gather by indices made of the image|dynamic_slice by indices made of the image"
    ):
        field_of_view(lambda x: x[:, x[0, 0, 0].astype(int)][:, None], jnp.ones((1, 8, 1)))
    with pytest.raises(UserError, match="a while loop may run any number of times"):
        field_of_view(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), jnp.ones((1, 8, 1)))


def test_functions_without_a_spatial_path_and_axes_that_do_not_exist():
    with pytest.raises(UserError, match="There is no spatial path"):
        field_of_view(lambda x: jnp.ones((1, 3)), jnp.ones((1, 8, 1)))
    with pytest.raises(UserError, match="no spatial axis in an input of shape"):
        field_of_view(lambda x: x, jnp.ones((1, 8)))
    with pytest.raises(UserError, match="There is no axis 3 in an input of shape"):
        field_of_view(lambda x: x, jnp.ones((1, 8, 1)), axes=(3,))


# --- The certificate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("interpolated", "interpolated linearly")])
def test_the_certificate_of_layers(name):
    image = jnp.zeros((1, 14, 4))
    function = positive_layer(LAYERS[name], image.shape)
    probes, failures = certify(function, image, field_of_view(function, image))
    assert probes >= 5 and failures == ()


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_the_certificate_of_resizing(method):
    class Up(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.InterpolateConv(2, (3, 3), method=method)(layers.Conv(2, (3, 3), strides=2)(x))

    image = jnp.zeros((1, 12, 9, 2))
    function = positive_layer(Up(), image.shape)
    assert certify(function, image, field_of_view(function, image), probe="positive").failures == ()


@pytest.mark.parametrize("wrong", [dict(low=1), dict(low=-1), dict(high=1), dict(high=-1)])
def test_the_certificate_notices_a_wrong_claim(wrong):
    image = jnp.zeros((1, 14, 4))
    function = positive_layer(layers.Conv(2, (5,), padding="VALID"), image.shape)
    (view,) = field_of_view(function, image)
    ((end, by),) = wrong.items()
    claim = view._replace(**{end: np.clip(getattr(view, end) + by, 0, 13)})
    assert certify(function, image, [claim]).failures


def test_large_networks_take_less_than_five_seconds():
    from cnnjax import models

    name = max(models.MODELS, key=lambda n: n == "resnet101")
    model = models.options(name).build(1000)
    image = jax.ShapeDtypeStruct((1, *models.options(name).input_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    start = time.monotonic()
    field_of_view(lambda x, v: model.apply(v, x), image, variables)
    assert time.monotonic() - start < 5


class ReZero(nn.Module):
    """Bachlechner et al. 2020: a branch weighed by a scalar that begins as zero."""

    @nn.compact
    def __call__(self, x):
        branch = nn.Conv(2, (5,), param_dtype=jnp.bfloat16, kernel_init=nn.initializers.zeros)(x)
        return x + self.param("alpha", nn.initializers.zeros, ()) * branch


def _closed(module, x):
    variables = module.init(jax.random.key(0), x)
    return lambda x: module.apply(variables, x)


class PooledGate(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = layers.Conv(2, (3,), padding="VALID")(x)
        return x * jax.nn.sigmoid(layers.AveragePool((x.shape[1],))(x))


NINE = jnp.ones((1, 9, 2))


@pytest.mark.parametrize(
    "function, size, stride",
    [
        (lambda x: x + x[:, :1], 9, None),
        (lambda x: jnp.broadcast_to(x[:, :1], x.shape), 1, 0),
        (_closed(ReZero(), NINE), 5, 1),
        (lambda x: jax.lax.top_k(x, 3, axis=1)[0], 9, 0),
        (lambda x: jax.lax.reduce_window((x, 2 * x), (0.0, 0.0), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1, 3, 1),
                                         (1, 1, 1), "VALID")[1], 3, 1),
        (lambda x: x + jax.random.normal(jax.random.key(0), x.shape), 1, 1),
    ],
    ids=["a slice on all", "a slice repeated", "closed-over zeros", "top_k", "two in a window", "a key"],
)  # fmt: skip
def test_what_a_reader_found_wrong(function, size, stride):
    """Each was silently too small, or a traceback."""
    (view,) = field_of_view(function, NINE)
    assert max(view.size, int((view.high - view.low + 1).max())) == size
    if stride is not None:
        assert (view.stride or 0) == stride


def test_a_gate_that_is_pooled_by_a_window_can_be_cut():
    x = jnp.ones((1, 20, 2))
    assert field_of_view(_closed(PooledGate(), x), x)[0].size == 20
    assert field_of_view(_closed(PooledGate(), x), x, cut_gates=True)[0].size == 3


@pytest.mark.parametrize("how", [dict(mode="fill", fill_value=0), dict(mode="fill", fill_value=0.5), {}])
def test_what_is_filled_in_comes_from_nowhere(how):
    (view,) = field_of_view(lambda x: jnp.take(x, jnp.array([0, 3, 20, 8]), axis=1, **how), NINE)
    assert (view.low[2] > view.high[2]) and view.low[[0, 1, 3]].tolist() == view.high[[0, 1, 3]].tolist() == [0, 3, 8]

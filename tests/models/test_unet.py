"""U-Nets: shapes, counts, options, field of view."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import knobs, layers, models
from cnnjax.errors import DoesNotFit, UserError
from cnnjax.inspection.field_of_view import field_of_view
from cnnjax.inspection.layer_table import layer_table

jit = functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))


def small(**options):
    return dataclasses.replace(models.options("unet"), base=4, depth=2, **options)


def pair(i, o, bias=1):
    """Parameters of a level of two 3x3 convolutions, by hand."""
    return 9 * i * o + bias * o + 9 * o * o + bias * o


def count(base, depth, channels, classes):
    """Parameters by hand: 9 i o + o a 3x3 convolution, 4 i o + o an up-convolution, i o + o the last."""
    widths = [base * 2**n for n in range(depth + 1)]
    down = sum(pair(i, o) for i, o in zip([channels, *widths], widths))
    up = sum(4 * 2 * w * w + w + pair(2 * w, w) for w in widths[:-1])
    return down + up + base * classes + classes


def table_of(options, *sides, channels=1, classes=2):
    image = jax.ShapeDtypeStruct((1, *sides, channels), jnp.float32)
    return layer_table(options.build(classes), image, train=False)


@pytest.mark.parametrize("name, base, side", [("unet", 64, 64), ("unet16", 16, 64), ("unet_valid", 64, 572)])
def test_parameters(name, base, side):
    table = table_of(models.options(name), side, side)
    assert table.parameters == count(base, 4, 1, 2)
    assert base == 16 or table.parameters == 31_030_658  # with biases, one channel, two classes: the paper's count


def test_the_papers_shapes():
    shapes = {row.name: row.shape[1] for row in table_of(models.options("unet_valid"), 572, 572).rows}
    # Figure 1, from left to right: after each convolution, pool, up-convolution and crop.
    for level, (first, second) in enumerate([(570, 568), (282, 280), (138, 136), (66, 64)], 1):
        assert (shapes[f"down{level}/conv1"], shapes[f"down{level}/conv2"]) == (first, second)
        assert shapes[f"pool{level}"] == second // 2
    assert (shapes["bottom/conv1"], shapes["bottom/conv2"]) == (30, 28)
    for level, (up, first, second) in {
        4: (56, 54, 52),
        3: (104, 102, 100),
        2: (200, 198, 196),
        1: (392, 390, 388),
    }.items():
        assert shapes[f"up{level}"] == shapes[f"crop{level}"] == up
        assert (shapes[f"merge{level}/conv1"], shapes[f"merge{level}/conv2"]) == (first, second)
    assert shapes["classes"] == 388


def test_sides_that_fit():
    valid, same = models.options("unet_valid"), models.options("unet")
    assert valid.output_side(572) == 388 and same.output_side(512) == 512
    assert valid.output_side(570) is None and same.output_side(40) is None
    assert valid.fitting_sides(570) == [556, 572] and same.fitting_sides(40) == [32, 48]
    assert (
        valid.fitting_sides(3) == [188] and valid.output_side(188) == 4
    )  # 188 184|92 88|44 40|20 16|8 4|8 4|8 4|8 4|8 4
    for options in (small(), small(padding="valid")):
        for side in range(8, 60):
            shape = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
            try:
                logits = jax.eval_shape(lambda x: options.build(2).init_with_output(jax.random.key(0), x)[0], shape)
            except DoesNotFit:
                assert options.output_side(side) is None
            else:
                assert logits.shape == (1, *(options.output_side(side),) * 2, 2)


def test_logits_are_as_large_as_the_picture_and_every_parameter_is_reached():
    options = models.options("unet").narrow()
    model, x = options.build(3), jax.random.normal(jax.random.key(0), (2, 16, 24, 1))

    @jit
    def logits_and_gradient(key):
        variables = model.init(key, x)
        logits = model.apply(variables, x)
        return logits, jax.grad(lambda v: (model.apply(v, x) ** 2).sum())(variables)

    logits, gradient = logits_and_gradient(jax.random.key(1))
    assert logits.shape == (2, 16, 24, 3) and logits.dtype == jnp.float32
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "options, difference",
    [
        (dict(skip="add"), -sum(9 * w * w for w in (4, 8))),  # what merges sees half as many channels
        (dict(skip="none"), -sum(9 * w * w for w in (4, 8))),
        (dict(down="stride"), sum(4 * w * w + w for w in (4, 8))),
        (dict(down="average"), 0),
        (dict(up="interpolate"), 0),
        (dict(padding="valid"), 0),
        (dict(normalization="batch"), sum(2 * w for w in (4, 8, 16, 4, 8))),  # scale and bias in a bias's place
        (dict(dropout=0.5), 0),
        (dict(depth=1), -(pair(8, 16) + 4 * 16 * 8 + 8 + pair(16, 8))),
    ],
)
def test_what_each_option_costs(options, difference):
    side = 44 if "padding" in options else 16
    base = small()
    changed = dataclasses.replace(base, **options)
    assert table_of(changed, side, side).parameters == table_of(base, 16, 16).parameters + difference


def test_volumes():
    table = table_of(small(axes=3), 8, 12, 16)
    assert table.rows[-1].shape == (1, 8, 12, 16, 2)
    kernels = lambda i, o: 27 * i * o + o + 27 * o * o + o
    wanted = kernels(1, 4) + kernels(4, 8) + kernels(8, 16) + kernels(16, 8) + kernels(8, 4) + 4 * 2 + 2
    assert table.parameters == wanted + (8 * 16 * 8 + 8) + (8 * 8 * 4 + 4)
    with pytest.raises(DoesNotFit, match="axes=3 takes 3 axes of pixels, not 2"):
        table_of(small(axes=3), 16, 16)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("up", ["transpose", "interpolate"])
def test_a_shift_by_the_total_stride_shifts_the_logits(padding, up):
    options = small(padding=padding, up=up)
    model, side = options.build(2), 108 if padding == "valid" else 96
    x = jax.random.normal(jax.random.key(0), (1, side + 4, side, 1))
    variables = jit(model.init)(jax.random.key(1), x[:, :side])
    apply = jit(model.apply)
    first, second = (apply(variables, x[:, start : start + side])[0] for start in (0, 4))
    # From the borders, whose zeros (or, interpolated, whose ends) are seen that far in.
    far = 0 if (padding, up) == ("valid", "transpose") else 30
    inner = slice(far, first.shape[0] - far - 4)
    np.testing.assert_allclose(second[inner], first[far + 4 : first.shape[0] - far], atol=2e-5)


def test_skips_are_what_they_are_called():
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    for skip, reached in (("concatenate", True), ("add", True), ("none", False)):
        options = small(skip=skip)
        model = options.build(2)
        variables = jit(model.init)(jax.random.key(1), x)
        # With the way up from the bottom cut, only what goes across reaches the logits.
        cut = variables["params"] | dict(up1=jax.tree.map(jnp.zeros_like, variables["params"]["up1"]))
        apply = jit(lambda x: model.apply(dict(params=cut), x))
        assert (float(jnp.abs(apply(x) - apply(x + 1)).max()) > 1e-3) == reached


def test_dropout_and_normalisation_know_training():
    options = small(dropout=0.5, normalization="batch")
    model, x = options.build(2), jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    variables = jit(model.init)(jax.random.key(1), x)
    train = jit(lambda key: model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=dict(dropout=key)))
    (first, changed), (second, _) = (train(jax.random.key(n)) for n in (2, 3))
    assert jnp.abs(first - second).max() > 1e-3
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), changed["batch_stats"], variables["batch_stats"])
    assert all(value > 0 for value in jax.tree.leaves(moved))


def test_the_crop_is_of_the_middle():
    x = jnp.arange(7.0)[None, :, None]
    np.testing.assert_array_equal(layers.CentreCrop((4,)).apply({}, x)[0, :, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(layers.CentreCrop((3,)).apply({}, x)[0, :, 0], [2, 3, 4])


def test_interpolation_by_hand():
    """Between 0 and 4, a quarter and three quarters of the way; at the ends the value there."""
    x = jnp.array([0.0, 4.0])[None, :, None]
    np.testing.assert_allclose(layers.Upsample(2, "linear").apply({}, x)[0, :, 0], [0, 1, 3, 4], atol=1e-6)
    np.testing.assert_array_equal(layers.Upsample(3).apply({}, x)[0, :, 0], [0, 0, 0, 4, 4, 4])


def test_the_way_up_interpolates_then_convolves():
    model = dataclasses.replace(small(up="interpolate"), base=2, depth=1).build(2)
    x = jax.random.normal(jax.random.key(0), (1, 8, 6, 1))
    variables = jit(model.init)(jax.random.key(1), x)
    apply = jit(lambda: model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"]))
    between = apply()[1]["intermediates"]
    below, up = (np.asarray(between[name]["__call__"][0][0]) for name in ("bottom", "up1"))
    for axis in (0, 1):  # by the centres of pixels, two to one; beyond the outermost its value
        n = below.shape[axis]
        centres = (np.arange(2 * n) + 0.5) / 2 - 0.5
        below = np.apply_along_axis(lambda line: np.interp(centres, np.arange(n), line), axis, below)
    padded = np.pad(below, [(0, 1), (0, 1), (0, 0)], mode="edge")
    kernel = np.asarray(variables["params"]["up1"]["Conv_0"]["kernel"])
    wanted = sum(padded[i : i + 8, j : j + 6] @ kernel[i, j] for i in (0, 1) for j in (0, 1))
    np.testing.assert_allclose(up, wanted, atol=1e-5)  # its bias is zero


@pytest.mark.parametrize("name, side", [("unet", 256), ("unet_valid", 412)])
def test_the_field_of_view_by_hand(name, side):
    # An output pixel sees 5 pixels of level 1 by two convolutions; pixels of level n + 1 stand for 2 of level n. On the way
    # up a block of p pixels comes from (p + 1) / 2 + 1 below at most; on the way down the convolutions add 4 a level.
    extent, below = 1, []
    for _ in range(4):
        extent += 4
        below.append(extent)
        extent = extent // 2 + 1  # as many pixels below as the block can touch
    extent += 4
    for _ in range(4):
        extent = 2 * extent + 4
    options = dataclasses.replace(models.options(name), base=1)
    model = options.build(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 1))))
    ones = lambda x: model.apply(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes), x)
    height, _ = field_of_view(ones, jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32))
    middle = slice(len(height.low) // 2 - 16, len(height.low) // 2 + 16)
    extents = (height.high - height.low + 1)[middle]
    # 204 by the arithmetic above; where the output is the first or last of its block of 16, a window less: 188.
    assert extents.max() == extent == 204 and set(extents.tolist()) == {188, 204}


def test_sides_must_fit():
    with pytest.raises(DoesNotFit, match="takes sides such as 32 or 48, not 40"):
        models.options("unet").build(2).init(jax.random.key(0), jnp.ones((1, 40, 64, 1)))
    with pytest.raises(DoesNotFit, match="without padding takes sides such as 556 or 572, not 570"):
        table_of(models.options("unet_valid"), 570, 570)


@pytest.mark.parametrize("name", models.PER_PIXEL)
def test_options_are_valid_and_have_their_name(name):
    for options in (models.options(name), models.options(name).narrow()):
        knobs.check(options)
        assert models.name_of(options) == options.name == name
    assert models.options(name) == models.PER_PIXEL[name] is not models.options(name)


def test_the_published_input_fits_whatever_the_depth():
    for depth, padding, axes in itertools.product(range(1, 9), ("same", "valid"), (2, 3)):
        options = dataclasses.replace(models.options("unet"), depth=depth, padding=padding, axes=axes)
        *sides, channels = options.input_shape
        assert len(sides) == axes and channels == 1 and all(map(options.output_side, sides))
    assert models.options("unet").input_shape == (512, 512, 1)
    assert models.options("unet_valid").input_shape == (572, 572, 1)


def test_the_least_size_is_that_of_the_bottom():
    # Same: one pixel at the bottom. Valid: 8 there, of which 4 stay 4 all the way up, and 2 n + 4 a level down.
    assert [models.least_size(name) for name in ("unet", "unet16", "unet_valid")] == [16, 16, 188]
    assert models.least_size(small(padding="valid", axes=3)) == 2 * (2 * 8 + 4) + 4


@pytest.mark.parametrize("down, pool", [("max", "MaxPool"), ("average", "AveragePool"), ("stride", "Conv")])
@pytest.mark.parametrize("up, doubled", [("transpose", ["ConvTranspose"]), ("interpolate", ["Upsample", "Conv"])])
def test_ways_down_and_up_are_the_layers_of_their_names(down, pool, up, doubled):
    rows = table_of(small(down=down, up=up), 16, 16).rows
    types = lambda name: [row.type for row in rows if row.name.split("/")[0] == name]
    assert types("pool1") == types("pool2") == [pool] and types("up1") == types("up2") == doubled


def test_groups_are_normalised():
    options = dataclasses.replace(small(normalization="group", padding="valid"), base=8)
    rows = table_of(options, 44, 48).rows
    # Scale and bias after each of ten convolutions.
    norms = [row for row in rows if row.type == "GroupNorm"]
    assert [row.parameters for row in norms] == [2 * w for w in (8, 8, 16, 16, 32, 32, 16, 16, 8, 8)]
    assert rows[-1].shape == (1, 4, 8, 2)


def test_remat_changes_no_number():
    options = dataclasses.replace(small(), base=2, depth=1)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    variables = jit(options.build(2).init)(jax.random.key(1), x)

    def gradient(remat):
        model = options.build(2, remat=remat)
        return jax.value_and_grad(lambda v: (model.apply(v, x, train=True) ** 2).mean())

    assert "remat" in str(jax.make_jaxpr(gradient(True))(variables))
    (loss, plain), (again, remade) = (jit(gradient(remat))(variables) for remat in (False, True))
    np.testing.assert_allclose(loss, again, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remade), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max()) + 1e-7)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="config.model.base=4 must be a multiple of"):
        small(normalization="group").build(2)


def test_it_is_no_classifier():
    import cnnjax

    with pytest.raises(UserError, match="config.model=unet16 says something of every pixel"):
        config = cnnjax.new_config(model="unet16")
        config.input.size = 16
        cnnjax.build(config)

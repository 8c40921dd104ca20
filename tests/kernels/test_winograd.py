"""Windows of three by fewer products: values and gradients against NumPy in float64, and where it is done."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import kernels
from cnnjax.kernels import winograd
from cnnjax.kernels.convolution import Geometry
from cnnjax.kernels.onednn import calls
from cnnjax.kernels.window import Window
from tests.kernels import references
from tests.kernels.cases import BOTH, SEEDED, close, rounded, several
from tests.kernels.cases import check as check_cases
from tests.kernels.test_kernels import convolution_case


def geometry_of(x, w, pads, groups=1, strides=None, dilation=None):
    axes = len(pads)
    strides, dilation = strides or (1,) * axes, dilation or (1,) * axes
    out = [(n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, s, d in zip(x[1:], pads, w, strides, dilation)]
    return Geometry(x, w, (x[0], *out, w[-1]), Window(strides, pads, dilation), groups)


def windows_of_three(rng):
    """(x shape, w shape, pads), down to an output of one pixel."""
    axes = rng.integers(1, 3)
    pads = tuple((a, b) for a, b in rng.integers(0, 5, (axes, 2)).tolist())
    sizes = [max(1, 3 - sum(p)) + int(rng.integers(0, 7)) for p in pads]
    batch, inputs, outputs = rng.integers(1, (4, 6, 6)).tolist()
    return (batch, *sizes, inputs), (*(3,) * axes, inputs, outputs), pads


@BOTH
@SEEDED
def test_the_three_convolutions(dtype, seed):
    check(dtype, several(windows_of_three, seed), seed)


@BOTH
def test_the_three_convolutions_in_3d(dtype):
    check(dtype, [((2, 4, 3, 5, 3), (3, 3, 3, 3, 2), ((1, 1), (0, 2), (3, 0)))], 0)


@BOTH
@pytest.mark.parametrize("parts", (2, 3, 6))
def test_a_large_batch_is_computed_in_parts(monkeypatch, parts, dtype):
    x, w, pads = (6, 5, 4, 3), (3, 3, 3, 2), ((1, 1), (1, 1))
    monkeypatch.setattr(winograd, "MOST_NUMBERS", 6 * (3 * 2) * 16 * 3 // parts)
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    geometry = geometry_of(x, w, pads)
    for kind, shapes in dict(forward=(x, w), weight_gradient=(x, geometry.y)).items():
        program = jax.make_jaxpr(lambda a, b, kind=kind: winograd.convolution(a, b, kind, geometry))
        assert f"length={parts}" in str(program(*map(jnp.ones, shapes)))
    check(dtype, [(x, w, pads)], 0)


def test_the_parts_of_a_weight_gradient_are_rounded_once(monkeypatch):
    x, w, pads = (6, 5, 4, 3), (3, 3, 3, 2), ((1, 1), (1, 1))
    monkeypatch.setattr(winograd, "MOST_NUMBERS", 6 * (3 * 2) * 16 * 3 // 6)
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    rng, geometry = np.random.default_rng(0), geometry_of(x, w, pads)
    x, x64 = rounded(rng.normal(size=x), jnp.bfloat16)
    dy, dy64 = rounded(rng.normal(size=geometry.y), jnp.bfloat16)
    exact = references.convolution(x64, np.zeros(w), dy64, (1, 1), pads, (1, 1), 1)[2]
    found = winograd.convolution(x, dy, "weight_gradient", geometry)
    half_a_unit = 2.0**-8 * np.abs(exact)  # of bfloat16's last place, at most
    assert (np.abs(np.asarray(found, np.float64) - exact) <= half_a_unit + 1e-5 * np.abs(exact).max()).all()


@pytest.mark.parametrize("batch, parts", [(256, 1), (257, 1), (271, None), (514, 2), (1024, 4), (1031, None)])
def test_parts_are_equal_and_not_too_small(batch, parts):
    geometry = geometry_of((batch, 14, 14, 128), (3, 3, 128, 160), ((1, 1), (1, 1)))  # 125,440 numbers an example
    assert winograd._parts("forward", geometry) == parts


@pytest.mark.parametrize("x", [(1, 1024, 1024, 64), (1, 128, 128, 128, 32), (337, 7, 7, 512)])
def test_what_would_not_fit_in_parts_is_not_served(x):
    axes = len(x) - 2
    geometry = geometry_of(x, (*(3,) * axes, x[-1], x[-1]), ((1, 1),) * axes)
    assert not winograd.serves("forward", geometry, (1, 1, 1))
    assert not winograd.serves("weight_gradient", geometry, (1, 1, 1))


def check(dtype, shapes, seed):
    """All three of each (x shape, w shape, pads), by one program."""
    inputs, programs, expected = [], [], []
    for x_shape, w_shape, pads in shapes:
        rng, geometry = np.random.default_rng(seed), geometry_of(x_shape, w_shape, pads)
        x, x64 = rounded(rng.normal(size=x_shape), dtype)
        w, w64 = rounded(rng.normal(size=w_shape), dtype)
        dy, dy64 = rounded(rng.normal(size=geometry.y), dtype)
        ones = (1,) * len(pads)
        inputs += [(x, w), (dy, w), (x, dy)]
        programs += [(kind, geometry) for kind in ("forward", "input_gradient", "weight_gradient")]
        expected += references.convolution(x64, w64, dy64, ones, pads, ones, 1)

    def all_of(inputs):
        return [winograd.convolution(*pair, *what) for pair, what in zip(inputs, programs, strict=True)]

    found = jax.jit(all_of).lower(inputs).compile(dict(xla_backend_optimization_level=0))(inputs)  # compiled sooner
    for what, one, reference in zip(programs, found, expected, strict=True):
        assert one.shape == reference.shape, what
        close(one, reference, dtype, what)


MANY = {  # (x, w, groups): of so many channels that every path takes it
    "1-D": ((16, 86, 512), (3, 512, 512), 1),
    "2-D": ((20, 13, 13, 192), (3, 3, 192, 200), 1),
    "groups": ((20, 13, 13, 384), (3, 3, 192, 384), 2),
}


@pytest.mark.parametrize("x, w, groups", MANY.values(), ids=MANY)
def test_of_many_channels_it_is_what_a_path_computes(path, x, w, groups):
    pads = ((1, 1),) * (len(x) - 2)
    ones = (1,) * len(pads)
    numbers = kernels.channels_last(len(pads))
    convolution = lambda x, w: kernels.convolution(
        x, w, ones, pads, dimension_numbers=numbers, feature_group_count=groups
    )

    def all_three(x, w):
        with kernels.using(path):
            y, pull = jax.vjp(convolution, x, w)
            return y, pull(y)

    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, w)]
    operations = jax.jit(all_three).lower(*structs).as_text()
    assert "stablehlo.convolution" not in operations and "custom_call" not in operations
    assert operations.count("stablehlo.dot_general") == 3 * groups * 4 ** (len(pads) - 1)
    check_cases(path, jnp.float32, [convolution_case(jnp.float32, x, w, ones, pads, ones, groups)])


@pytest.mark.parametrize(
    "change",
    [
        dict(strides=(2, 2)),
        dict(dilation=(2, 2)),
        dict(w=(3, 2, 256, 256)),
        dict(x=(32, 32, 32, 63), w=(3, 3, 63, 256)),
        dict(x=(128, 32, 32, 256), w=(3, 3, 256, 63)),
        dict(x=(1, 16, 16, 1024), w=(3, 3, 1024, 1024)),  # 64 tiles
        dict(x=(128, 5, 5, 256)),  # 36 outputs of tiles for 25
        dict(x=(3, 16, 16, 256)),  # less work
    ],
    ids=lambda change: "-".join(change),
)
def test_it_serves_what_it_is_faster_for(change):
    usual = dict(x=(8, 16, 16, 256), w=(3, 3, 256, 256), pads=((1, 1), (1, 1)))
    assert winograd.serves("forward", geometry_of(**usual), (1000, 64, 16))
    assert not winograd.serves("forward", geometry_of(**usual | change), (1000, 64, 16))
    assert not winograd.serves("forward", geometry_of(**usual), (1, 257, 1))


def test_the_gradient_of_the_input_fills_tiles_of_the_input():
    geometry = geometry_of((128, 7, 7, 256), (3, 3, 256, 256), ((0, 0), (0, 0)))  # 7 x 7 from 5 x 5
    serves = lambda kind: winograd.serves(kind, geometry, (1, 1, 1))
    assert [serves(kind) for kind in ("forward", "input_gradient", "weight_gradient")] == [False, True, False]


def program_of(path, dtype, x, w, groups=1):
    numbers, axes = kernels.channels_last(len(x) - 2), len(x) - 2
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape in (x, w)]
    call = lambda x, w: kernels.convolution(
        x, w, (1,) * axes, "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    with kernels.using(path):
        return jax.jit(call).lower(*structs).as_text()


def test_what_onednn_keeps(onednn):
    """Native bfloat16, many groups, three axes and fewer channels."""
    in_float32 = calls.computes_in(jnp.bfloat16) == jnp.float32
    many, volume = ((20, 13, 13, 256), (3, 3, 256, 256)), ((4, 8, 8, 8, 256), (3, 3, 3, 256, 256))
    by_transforms = lambda *arguments: "stablehlo.dot_general" in program_of(onednn, *arguments)
    assert by_transforms(jnp.float32, *many)
    assert by_transforms(jnp.bfloat16, *many) == in_float32
    assert not by_transforms(jnp.float32, (20, 13, 13, 9 * 192), (3, 3, 192, 9 * 192), 9)
    assert not by_transforms(jnp.float32, *volume)
    assert not by_transforms(jnp.float32, (64, 13, 13, 128), (3, 3, 128, 256))


def test_portable_takes_volumes_of_few_channels():
    of = lambda channels: program_of(kernels.PORTABLE, jnp.float32, (8, 16, 32, 32, channels), (3, 3, 3, channels, 64))
    assert "stablehlo.convolution" not in of(24) and "stablehlo.convolution" in of(12)

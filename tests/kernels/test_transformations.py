"""Kernels under JAX's transformations give what XLA's operations give."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import kernels

NUMBERS = kernels.channels_last(2)


def network(params, x):
    """Every kernel once. `[B, 9, 9, 3]` -> []."""
    w1, w2, up, bias, scale, dense = params
    x = kernels.add_bias(kernels.convolution(x, w1, (1, 1), "SAME", dimension_numbers=NUMBERS), bias)
    x = response(normalized(jnp.tanh(x), scale, bias))
    x = kernels.convolution(x, w2, (2, 2), "SAME", dimension_numbers=NUMBERS, feature_group_count=2)
    x = kernels.max_pool(kernels.conv_transpose(x, up, (2, 2), "SAME"), (3, 3), (2, 2), ((0, 1), (1, 0)))
    x = kernels.dense(x.reshape(x.shape[0], -1), dense, (((1,), (0,)), ((), ())))
    return jnp.sin(x).sum()


def normalized(x, scale, bias):
    found = kernels.batch_norm(x, scale, bias, 1e-3)
    if found is not None:
        return found[0]
    rows = x.reshape(-1, x.shape[-1])
    y = (rows - rows.mean(0)[None]) * (scale * jax.lax.rsqrt(rows.var(0) + 1e-3))[None] + bias[None]
    return y.reshape(x.shape)


def response(x):
    found = kernels.local_response_norm(x, n=5, k=1.0, alpha=0.1, beta=0.75)
    if found is not None:
        return found
    padded = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(2, 2)])
    return x * (1 + 0.1 * sum(padded[..., j : j + x.shape[-1]] for j in range(5))) ** -0.75


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
    return [normal(3, 3, 3, 4), normal(3, 3, 2, 6), normal(2, 2, 6, 4), normal(4), normal(4), normal(100, 5)], normal(
        2, 9, 9, 3
    )


def per_path(path, function, *arguments):
    """The function's result on XLA's path and on another."""
    results = []
    for chosen in (kernels.XLA, path):
        with kernels.using(chosen):
            results.append(function(*arguments))
    return results


def same(expected, found, rtol=2e-4):
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * max(1e-3, float(jnp.abs(a).max())))


TRANSFORMED = {
    "as it is": lambda p, x: network(p, x),
    "gradient": lambda p, x: jax.grad(network, argnums=(0, 1))(p, x),
    "vmap": lambda p, x: jax.vmap(lambda s: network(p, x * s))(jnp.arange(1.0, 4.0)),
    "gradient of vmap": lambda p, x: jax.grad(lambda p: jax.vmap(lambda s: network(p, x * s))(jnp.ones(2)).sum())(p),
    "vmap of gradient": lambda p, x: jax.vmap(lambda s: jax.grad(lambda x: network(p, x * s))(x))(jnp.arange(1.0, 3.0)),
    "remat": lambda p, x: jax.grad(lambda p, x: jax.checkpoint(network)(p, x))(p, x),
    "scan": lambda p, x: jax.grad(
        lambda p: jax.lax.scan(lambda c, s: (c + network(p, x * s), None), 0.0, jnp.arange(1.0, 4.0))[0]
    )(p),
    "jvp": lambda p, x: jax.jvp(lambda p, x: network(p, x), (p, x), (jax.tree.map(jnp.cos, p), jnp.sin(x))),
    "linearize": lambda p, x: jax.linearize(lambda x: network(p, x), x)[1](jnp.sin(x)),
    "gradient of gradient": lambda p, x: jax.grad(
        lambda p: sum((g**2).sum() for g in jax.tree.leaves(jax.grad(lambda p: network(p, x))(p)))
    )(p),
    "hessian-vector product, forward over reverse": lambda p, x: jax.jvp(
        jax.grad(lambda x: network(p, x)), (x,), (jnp.sin(x),)
    )[1],
    "reverse over forward": lambda p, x: jax.grad(lambda x: jax.jvp(lambda x: network(p, x), (x,), (jnp.sin(x),))[1])(
        x
    ),
}


def compiled(name, path, arrays):
    """A transformation on a path, compiled as a whole; a new function each time, so that it is traced."""
    with kernels.using(path):
        return jax.jit(lambda p, x: TRANSFORMED[name](p, x))(*arrays)


@pytest.fixture(scope="module")
def on_xla(arrays):
    """What XLA's own operations give, worked out once a transformation."""
    return functools.cache(lambda name: compiled(name, kernels.XLA, arrays))


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformations(any_path, arrays, on_xla, name):
    same(on_xla(name), compiled(name, any_path, arrays))


@pytest.mark.parametrize("name", ["as it is", pytest.param("gradient", marks=pytest.mark.slow)])
def test_operation_by_operation_it_is_the_same(any_path, arrays, on_xla, name):
    with kernels.using(any_path):
        same(on_xla(name), TRANSFORMED[name](*arrays))


def test_vmap_on_a_gpu_is_no_loop(arrays):
    params, x = arrays
    with kernels.using(kernels.GPU):
        many = jax.make_jaxpr(jax.grad(lambda s: jax.vmap(lambda s: network(params, x * s))(s).sum()))(jnp.ones(3))
    assert "scan" not in str(many) and "scatter" not in str(many)


def test_a_derivative_that_is_traced_later_keeps_its_path(path, arrays):
    params, x = arrays
    with kernels.using(path):
        _, pull = jax.vjp(lambda p: network(p, x), params)
    text = str(jax.make_jaxpr(pull)(jnp.float32(1)))
    assert "cnnjax_convolution" in text and f"path={path}" in text and "conv_general_dilated" not in text


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.grad(f))])
def test_a_wrapped_function_is_traced_anew_on_each_path(path, arrays, wrap):
    """Also one that the user wrapped and keeps."""
    function = wrap(lambda x: kernels.add_bias(x, jnp.ones(3)).sum())
    text = lambda: str(jax.make_jaxpr(lambda x: function(x))(arrays[1]))
    for chosen in (path, kernels.XLA, path):
        with kernels.using(chosen):
            assert ("cnnjax" in text()) == (chosen != kernels.XLA)
        assert "cnnjax" not in text()


def test_outside_all_is_xla(arrays):
    text = str(jax.make_jaxpr(jax.grad(lambda p: network(p, arrays[1])))(arrays[0]))
    assert "cnnjax" not in text and "conv_general_dilated" in text


def test_exported_programs_are_xlas_on_every_path(any_path, arrays):
    from jax import export

    for chosen in (any_path, kernels.XLA):
        with kernels.using(chosen):
            gradient = jax.jit(jax.grad(lambda p, x: network(p, x)))
            exported = export.export(gradient)(*arrays)
            assert "@cnnjax" not in exported.mlir_module()
            same(gradient(*arrays), exported.call(*arrays))


def test_threads_do_not_disturb_each_other(path):
    rng = np.random.default_rng(0)
    jobs = []
    for n in range(6):
        x = jnp.asarray(rng.normal(size=(4, 12 + n, 12, 16)), jnp.float32)
        w = jnp.asarray(rng.normal(size=(3, 3, 16, 24)), jnp.float32)

        def gradient(x, w):
            with kernels.using(path):
                return jax.grad(
                    lambda x, w: (kernels.convolution(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS) ** 2).sum(),
                    (0, 1),
                )(x, w)

        compiled = jax.jit(gradient).lower(x, w).compile()
        jobs.append((compiled, x, w, compiled(x, w)))
    wrong = []

    def work(job):
        compiled, x, w, expected = job
        for _ in range(20):
            if not all(np.array_equal(a, b) for a, b in zip(compiled(x, w), expected, strict=True)):
                wrong.append(1)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


SAID = {
    "convolutions": lambda x: kernels.convolution(x, x[:1], (1, 1), "SAME", dimension_numbers=NUMBERS),
    "transposed convolutions": lambda x: kernels.conv_transpose(x, x[:1], (2, 2), "SAME"),
    "biases": lambda x: kernels.add_bias(x, x[0, 0, 0]),
    "products": lambda x: kernels.dense(x, x[0, 0], (((3,), (0,)), ((), ()))),
    "max poolings": lambda x: kernels.max_pool(x, (2, 2), (1, 1), [(0, 0)] * 2),
    "batch normalisations": lambda x: kernels.batch_norm(x, x[0, 0, 0], x[0, 0, 0], 1e-5),
    "sums of squares": kernels.square_sum,
    "response normalisations": lambda x: kernels.local_response_norm(x, n=5, k=1.0, alpha=0.1, beta=0.75),
}


@pytest.mark.parametrize("dtype", (jnp.float16, jnp.float64, jnp.complex64))
@pytest.mark.parametrize("what", SAID)
def test_other_types_are_said_once(any_path, what, dtype, capfd):
    kernels.paths.say_once.cache_clear()
    if what == "max poolings" and dtype == jnp.complex64:
        return  # which have no largest
    with jax.enable_x64(True), kernels.using(any_path):
        for _ in range(2):
            SAID[what](jnp.ones((3, 3, 3, 3), dtype))
    lacking = (
        ("products", "convolutions", "biases", "batch normalisations", "sums of squares")
        if any_path == kernels.GPU
        else ()
    )
    served = what not in lacking
    line = f"cnnjax: {what} of {jnp.dtype(dtype)} are XLA's: the {any_path} kernels are for float32 and bfloat16.\n"
    assert capfd.readouterr().err == (line if served else "")


@pytest.mark.parametrize(
    "window, strides, channels, features, groups",
    [
        ((3, 3), (2, 1), 4, 6, 1),
        ((1, 1), (2, 2), 4, 6, 1),
        ((3, 2), (1, 2), 4, 6, 2),
        ((3, 3), (2, 2), 4, 4, 4),
        ((3, 3), (2, 2), 1, 4, 1),
    ],
    ids=["plain", "1x1", "groups", "depthwise", "one input"],  # fmt: skip
)
def test_the_portable_forms_see_what_xlas_convolution_sees(window, strides, channels, features, groups):
    from cnnjax.inspection.field_of_view import field_of_view
    from cnnjax.kernels import portable
    from cnnjax.kernels.convolution import Geometry
    from cnnjax.kernels.window import Window

    x, w = jnp.ones((1, 11, 12, channels)), jnp.ones((*window, channels // groups, features))
    pads = tuple((k // 2, k // 2) for k in window)
    plain = lambda x, w: jax.lax.conv_general_dilated(
        x, w, strides, pads, dimension_numbers=NUMBERS, feature_group_count=groups
    )
    geometry = Geometry(x.shape, w.shape, jax.eval_shape(plain, x, w).shape, Window(strides, pads, (1, 1)), groups)
    expected = field_of_view(plain, x, w)
    for one, other in zip(
        expected, field_of_view(lambda x, w: portable.convolution(x, w, "forward", geometry), x, w), strict=True
    ):
        np.testing.assert_array_equal(other.low, one.low)
        np.testing.assert_array_equal(other.high, one.high)
        assert (other.size, other.stride) == (one.size, one.stride)


def test_what_a_kernel_cannot_do_is_xlas(path):
    """Other types, an empty batch, other layouts, a dilated input with groups: the same values, by XLA."""
    rng = np.random.default_rng(0)
    cases = [
        (np.int32, (2, 5, 5, 3), (3, 3, 3, 4), {}),
        (np.complex64, (2, 5, 5, 3), (3, 3, 3, 4), {}),
        (np.float16, (2, 5, 5, 3), (3, 3, 3, 4), {}),
        (np.float32, (0, 5, 5, 3), (3, 3, 3, 4), {}),
        (
            np.float32,
            (2, 5, 5, 4),
            (3, 3, 2, 4),
            dict(lhs_dilation=(2, 2), feature_group_count=2, padding=((1, 2), (1, 2))),
        ),
        (np.float32, (2, 5, 5, 3), (3, 3, 3, 4), dict(batch_group_count=2)),
    ]
    for dtype, x_shape, w_shape, more in cases:
        x, w = (jnp.asarray(rng.integers(-3, 4, shape).astype(dtype)) for shape in (x_shape, w_shape))
        given = dict(padding="SAME", dimension_numbers=NUMBERS) | more
        call = lambda x=x, w=w, given=given: kernels.convolution(x, w, (1, 1), **given)
        expected, found = per_path(path, call)
        np.testing.assert_array_equal(found, expected)
    x = jnp.ones((2, 3, 8, 8))
    expected, found = per_path(path, lambda: kernels.convolution(x, jnp.ones((4, 3, 3, 3)), (1, 1), "SAME"))  # NCHW
    np.testing.assert_array_equal(found, expected)

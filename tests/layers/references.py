"""Layers written out in NumPy, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def convolution(x, kernel, strides, dilation, groups, pads, mode="constant"):
    """`[B, *spatial, C]` with a kernel `[*window, C / groups, features]`: each tap moves over the padded input."""
    axes = kernel.ndim - 2
    x = np.pad(x, [(0, 0), *pads, (0, 0)], mode=mode)
    window = kernel.shape[:axes]
    counts = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *counts, kernel.shape[-1]))
    inside, outside = kernel.shape[-2], kernel.shape[-1] // groups
    for tap in itertools.product(*map(range, window)):
        places = [
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, counts, strides, strict=True)
        ]
        seen = x[(slice(None), *places)]
        for g in range(groups):
            part = seen[..., g * inside : (g + 1) * inside]
            y[..., g * outside : (g + 1) * outside] += part @ kernel[tap][:, g * outside : (g + 1) * outside]
    return y


def same(sizes, window, strides):
    """Padding that leaves ceil(size / stride) positions, the odd one behind."""
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def local_response(x, n, k, alpha, beta):
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        around = x[..., max(0, i - n // 2) : i + (n - 1) // 2 + 1]
        y[..., i] = x[..., i] / (k + alpha * (around**2).sum(-1)) ** beta
    return y


def standardized(x, axes, epsilon):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def agrees(function, reference, *arrays, rng, linear=False, rtol=1e-5):
    """Holds a layer against its reference: forward in float32 and bfloat16, and gradients along random directions.

    `function(dtype)` is the layer in a precision; both take the arrays. A derivative of a linear reference is the reference
    itself; of another, a central difference in float64.
    """
    expected = reference(*arrays)
    scale = np.abs(expected).max()
    singles = [jnp.asarray(a, jnp.float32) for a in arrays]
    weights = rng.normal(size=expected.shape)
    loss = lambda *a: (function(jnp.float32)(*a) * jnp.asarray(weights, jnp.float32)).sum()

    def forward_and_gradients(*singles):
        half = function(jnp.bfloat16)(*(a.astype(jnp.bfloat16) for a in singles))
        return function(jnp.float32)(*singles), half, jax.grad(loss, argnums=tuple(range(len(singles))))(*singles)

    compiled = jax.jit(forward_and_gradients, compiler_options=dict(xla_backend_optimization_level=0))  # soonest
    single, half, gradients = compiled(*singles)
    np.testing.assert_allclose(single, expected, atol=rtol * scale)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float64), expected, atol=0.03 * scale)
    for n, array in enumerate(arrays):
        gradient = np.asarray(gradients[n], np.float64)
        for _ in range(3):
            step = rng.normal(size=array.shape)
            moved = lambda t, n=n, step=step: reference(*(a + t * step if i == n else a for i, a in enumerate(arrays)))
            if linear:
                slope = (reference(*(step if i == n else a for i, a in enumerate(arrays))) * weights).sum()
            else:
                slope = ((moved(1e-5) - moved(-1e-5)) * weights).sum() / 2e-5
            size = np.linalg.norm(gradient) * np.linalg.norm(step)
            assert abs((gradient * step).sum() - slope) < 1e-4 * size + 1e-6

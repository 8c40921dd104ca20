"""Max pooling that remembers which pixel of each window it took: its gradient needs no search, and no scatter."""

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from cnnjax.kernels import paths
from cnnjax.kernels.derivation import primitive, with_onednn
from cnnjax.kernels.in_memory import in_memory
from cnnjax.kernels.onednn import calls
from cnnjax.kernels.window import Window, cropped, spread, taps

LARGEST_WINDOW = 255  # pixels whose numbers fit into a byte


def max_pool(
    x: jax.Array, window_shape: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """The largest value of each window of `[B, *spatial, C]`, as `jax.lax.reduce_window` with -inf beyond the border.

    Of equal values the first of the window, row by row, gets the gradient. NaN is the largest of all.
    """
    pads = tuple(map(tuple, padding))
    size, strides = tuple(window_shape), tuple(strides)
    if any(min(pad) < 0 for pad in pads):
        x, pads = cropped(x, pads, -jnp.inf)
    covered = all(max(pad) < k for pad, k in zip(pads, size))  # each window holds a pixel of the picture
    usual = paths.computes("max poolings", x) and covered and 0 not in x.shape and len(size) <= 3
    if not usual or prod(size) > LARGEST_WINDOW:
        window, steps = (1, *size, 1), (1, *strides, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, steps, ((0, 0), *pads, (0, 0)))
    window = Window(strides, pads, (1,) * len(size))
    return max_pool_p.bind(x, size=size, window=window, path=paths.current())[0]


def _out(x, size, window: Window) -> tuple[int, ...]:
    axes = zip(x[1:-1], size, window.strides, window.padding)
    return (x[0], *((n + sum(p) - k) // s + 1 for n, k, s, p in axes), x[-1])


def _plain(x, *, size, window: Window, path: str):
    dtype = x.dtype
    exact = x.astype(jnp.promote_types(dtype, jnp.float32))  # XLA computes narrow types operation by operation
    first, *others = taps(exact, size, window, _out(x.shape, size, window), -jnp.inf)
    largest, taken = first, jnp.zeros(first.shape, jnp.uint8)
    for number, tap in enumerate(others, 1):
        more = ~(tap <= largest) & (largest == largest)  # larger, or the first that is not a number
        largest, taken = jnp.where(more, tap, largest), jnp.where(more, jnp.uint8(number), taken)
    return [largest.astype(dtype), taken]


def _pick(t, place, *, size, window: Window, path: str) -> jax.Array:
    """From each window the value at the place that was taken."""
    seen = taps(t, size, window, place.shape)
    return sum(jnp.where(place == number, tap, 0) for number, tap in enumerate(seen)).astype(t.dtype)


def _spread(dy, place, *, shape, size, window: Window, path: str) -> jax.Array:
    """The transpose of `_pick`: each value to the place that was taken, in an array of a shape."""
    parts = (jnp.where(place == number, dy, 0) for number in range(prod(size)))
    return spread(parts, shape, size, window)


def _spread_in_memory(dy, place, *, path: str, **parameters) -> jax.Array:
    if path != paths.GPU:  # a GPU would wait for the condition, and loses nothing without
        dy, place = in_memory(dy), in_memory(place)
    return _spread(dy, place, path=path, **parameters)


# oneDNN's forward pooling loses NaN (and is hardly faster): its gradient alone is used.
max_pool_p = primitive("max_pool", _plain, _plain, multiple_results=True)
pick_p = primitive("max_pool_pick", _pick, _pick)
spread_p = primitive("max_pool_spread", with_onednn(calls.max_pool_gradient, _spread_in_memory), _spread)


def _jvp(primals, tangents, **parameters):
    (x,), (t,) = primals, tangents
    largest, place = max_pool_p.bind(x, **parameters)
    tangent = pick_p.bind(ad.instantiate_zeros(t), place, **parameters)
    return [largest, place], [tangent, ad.Zero(jax.typeof(place).to_tangent_aval())]


ad.primitive_jvps[max_pool_p] = _jvp
ad.defjvp(pick_p, lambda t, x, place, **parameters: pick_p.bind(t, place, **parameters), None)
ad.defjvp(spread_p, lambda t, dy, place, **parameters: spread_p.bind(t, place, **parameters), None)


def _transpose_pick(ct, t, place, **parameters):
    return [spread_p.bind(ct, place, shape=tuple(t.aval.shape), **parameters), None]


def _transpose_spread(ct, dy, place, *, shape, **parameters):
    return [pick_p.bind(ct, place, **parameters), None]


ad.primitive_transposes[pick_p] = _transpose_pick
ad.primitive_transposes[spread_p] = _transpose_spread

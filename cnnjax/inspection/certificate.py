"""A proof by experiment that a field of view is right: what lies outside it changes nothing, what lies at its ends does.

Not-a-number is put into the input: it spreads through sums, products, maxima and activations, and cannot cancel or
vanish. Products with a known matrix that has zeros (`jax.image.resize`) would spread it too far; for functions with such
parts `probe="positive"` puts ones into an input of zeros instead, which asks for positive weights, no biases and no centring.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.inspection.field_of_view import FieldOfView

PROBES = 128  # inputs that go through the function at once


class Certificate(NamedTuple):
    """How many probes were made, and those that speak against the claim."""

    probes: int
    failures: tuple[str, ...]


def certify(
    function: Callable[[jax.Array], jax.Array],
    image: Any,
    views: Sequence[FieldOfView],
    positions: int = 5,
    probe: str = "nan",
) -> Certificate:
    """Tests the fields of view of a function `[B, *spatial, C]` -> `[B, *spatial', ...]`, examples independent of each other.

    Args:
      image: has the shape of the input; one example.
      views: one for each spatial axis, as `field_of_view` gives them.
      positions: how many output positions of each axis are tested, spread over it, the first and last among them.
      probe: 'nan' or 'positive'.
    """
    shape, failures, count = tuple(image.shape), [], 0
    apply = jax.jit(function)
    for axis, view in enumerate(views, start=1):
        chosen = sorted({round(p) for p in np.linspace(0, len(view.low) - 1, min(positions, len(view.low)))})
        inside = np.arange(shape[axis])
        tests = []  # (position, marked input positions, whether the output must notice, what for)
        for position in chosen:
            low, high = int(view.low[position]), int(view.high[position])
            outside = (inside < low) | (inside > high)
            if outside.any():
                tests.append((position, outside, False, f"outside {low}..{high}"))
            if low <= high:
                tests += [(position, inside == end, True, f"at {end}") for end in sorted({low, high})]
        for start in range(0, len(tests), PROBES):
            block = tests[start : start + PROBES]
            marks = np.stack([marked for _, marked, _, _ in block])
            marks = marks.reshape(len(block), *(-1 if n == axis else 1 for n in range(1, len(shape))))
            filler = np.nan if probe == "nan" else 1.0
            inputs = np.where(np.broadcast_to(marks, (len(block), *shape[1:])), filler, 0.0)
            outputs = np.asarray(apply(jnp.asarray(inputs, image.dtype)))
            noticed = ~np.isfinite(outputs) if probe == "nan" else outputs != 0
            for (position, _, expected, what), output in zip(block, noticed):
                at = output if len(view.low) == 1 else np.take(output, position, axis - 1)
                count += 1
                if at.any() != expected:
                    verb = "does not notice" if expected else "notices"
                    failures.append(f"axis {axis}: position {position} {verb} what is {what}")
    return Certificate(count, tuple(failures))


def positive(variables: Any) -> Any:
    """Variables of a network with all weights positive, biases and means zero and variances one, so that nothing cancels."""

    def changed(path, leaf):
        name = str(getattr(path[-1], "key", ""))
        if name in ("bias", "mean"):
            return jnp.zeros_like(leaf)
        if name == "var":
            return jnp.ones_like(leaf)
        return jnp.abs(leaf) + 0.01

    return jax.tree_util.tree_map_with_path(changed, variables)

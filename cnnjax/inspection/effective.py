"""The effective field of view: how much each input position really weighs in what one output position says.

Luo, Li, Urtasun & Zemel 2016, "Understanding the effective receptive field in deep convolutional neural networks": it is
about Gaussian, and much narrower than the theoretical one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.errors import UserError

THRESHOLD = 1 - 0.9545  # of the largest weight (section 3 of the paper)


class EffectiveFieldOfView(NamedTuple):
    """Attributes:
    weight: `[*spatial]`, of each input position; they add up to 1.
    width: along each axis, four standard deviations of `weight`: what holds 95.45 % of a Gaussian, in input positions.
    area: how many positions weigh more than 4.55 % of the most, the paper's count; its root is a side.
    """

    weight: np.ndarray
    width: tuple[float, ...]
    area: int


def effective_field_of_view(
    function: Callable[[jax.Array], jax.Array], image: Any, samples: int = 16, seed: int = 0
) -> EffectiveFieldOfView:
    """Of the centre position of the output of `[1, *spatial, C]` -> `[1, *spatial', C']`.

    The weight is the absolute gradient of that position's sum over channels, added up over input channels and averaged
    over random inputs.

    Args:
      image: has the input's shape.
      samples: random inputs from N(0, 1).

    Raises:
      UserError: the gradient is zero everywhere.
    """

    def centre(x):
        output = function(x)
        return output[(0, *(n // 2 for n in output.shape[1:-1]))].sum()

    gradient = jax.jit(jax.grad(centre))
    total = np.zeros(image.shape[1:-1])
    for key in jax.random.split(jax.random.key(seed), samples):
        x = jax.random.normal(key, image.shape, image.dtype)
        total += np.abs(np.asarray(gradient(x), np.float64)).sum(-1)[0]
    if not np.isfinite(total).all() or not total.sum():
        raise UserError(
            "There is no effective field of view: the gradient of the centre position is zero, or not finite."
        )
    weight = total / total.sum()
    width = []
    for axis in range(weight.ndim):
        marginal = weight.sum(tuple(a for a in range(weight.ndim) if a != axis))
        positions = np.arange(len(marginal))
        mean = (positions * marginal).sum()
        width.append(float(4 * np.sqrt(((positions - mean) ** 2 * marginal).sum())))
    return EffectiveFieldOfView(weight, tuple(width), int((weight > THRESHOLD * weight.max()).sum()))

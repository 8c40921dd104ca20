"""What convolution and pooling share: how far a window reaches over the border, and whether it fits."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from cnnjax.errors import DoesNotFit

Padding = str | int | Sequence[int | tuple[int, int]]  # 'SAME', 'VALID', one number, or a number or pair per axis


def per_axis(value: int | Sequence[int] | None, axes: int) -> tuple[int, ...]:
    """One whole number for each of so many axes; None is 1."""
    return (value or 1,) * axes if value is None or isinstance(value, int) else tuple(value)


def explicit_padding(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis of `sizes`; `window` is the dilated one.

    'SAME' makes ceil(size / stride) positions with the odd pixel at the end, as TensorFlow and `jax.lax` do.
    """
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(sizes, window, strides, padding))
    pairs = (padding,) * len(window) if isinstance(padding, int) else padding
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in pairs)


def check_fits(
    module: nn.Module, sizes: Sequence[int], window: Sequence[int], padding: Sequence[tuple[int, int]]
) -> None:
    """Raises DoesNotFit, naming the layer, where a window finds no position."""
    if any(n + sum(p) < w for n, w, p in zip(sizes, window, padding)):
        layer = "/".join(module.path) or type(module).__name__
        times = "x".join
        around = "" if not any(map(sum, padding)) else f" with padding {tuple(padding)}"
        raise DoesNotFit(
            f"At {layer} {times(map(str, sizes))} positions arrive{around}, "
            f"less than its window of {times(map(str, window))}: the input is too small for this network."
        )

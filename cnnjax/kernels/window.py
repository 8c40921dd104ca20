"""What a convolution or pooling does along its spatial axes."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple


class Window(NamedTuple):
    """One value (of padding: a pair) an axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def dilated(sizes: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """The extent of `sizes` elements with gaps of `dilation` - 1 between them."""
    return tuple((size - 1) * d + 1 if size else 0 for size, d in zip(sizes, dilation))


def places(size: Sequence[int], dilation: Sequence[int] | None = None) -> Iterator[tuple[int, ...]]:
    """Where each element of a window stands in it, row by row."""
    return product(*(range(0, n * d, d) for n, d in zip(size, dilation or (1,) * len(size))))


def reach(shape: Sequence[int], place: Sequence[int], out: Sequence[int], strides: Sequence[int]):
    """(start, limit, strides) of what one place of a window lies on at all positions; shapes are `[B, *spatial, C]`."""
    limit = [p + (n - 1) * s + 1 for p, n, s in zip(place, out[1:-1], strides)]
    return (0, *place, 0), (shape[0], *limit, shape[-1]), (1, *strides, 1)

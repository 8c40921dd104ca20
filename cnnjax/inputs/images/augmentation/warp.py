"""Pictures and masks seen through one field of coordinates: rotation, scaling and elastic deformation in one resampling.

A field says of each pixel of the result from which (row, column) it comes, two arrays [H, W] float32 in pixels from the
middle of the first. A picture is sampled bilinearly, a mask takes the nearest pixel. All take one picture; `jax.vmap` makes
them batched.
"""

import jax
import jax.numpy as jnp
import numpy as np


def coordinates(shape, matrix):
    """The field of an affine map [2, 3] as `geometry.affine` takes it, for pictures of a shape (H, W, ...)."""
    height, width = shape[:2]
    middle = (height - 1) / 2, (width - 1) / 2
    y = (jnp.arange(height, dtype=jnp.float32) - middle[0])[:, None]
    x = (jnp.arange(width, dtype=jnp.float32) - middle[1])[None, :]
    # Written out, not as a matrix product, which an accelerator would round to fewer digits.
    return tuple(matrix[n, 0] * y + matrix[n, 1] * x + matrix[n, 2] + middle[n] for n in range(2))


def random_displacements(key, shape, deviation: float, points: int):
    """(down, right) [H, W] float32 in pixels: smooth fields that are N(0, deviation^2) at points x points places.

    The places lie evenly over the picture, its corners among them; between them goes a cubic spline (Ronneberger et al.
    2015, section 3.1: 3 x 3 places, 10 pixels, bicubic interpolation).
    """
    drawn = deviation * jax.random.normal(key, (2, points, points))
    rows, columns = (jnp.asarray(_spline(length, points)) for length in shape[:2])
    fields = jnp.einsum("yi,nij->nyj", rows, drawn, precision="highest")
    fields = jnp.einsum("xj,nyj->nyx", columns, fields, precision="highest")
    return fields[0], fields[1]


def _spline(length: int, points: int) -> np.ndarray:
    """[length, points]: the natural cubic spline through values at even places, the first and last among them."""
    from scipy.interpolate import CubicSpline

    places = np.linspace(0, points - 1, length) if length > 1 else np.zeros(1)
    return CubicSpline(np.arange(points), np.eye(points), bc_type="natural")(places).astype(np.float32)


def mirror(position, length: int):
    """Positions, whole or not, brought into [0, length - 1] as in mirrors that stand on the first and last pixel."""
    if length == 1:
        return jnp.zeros_like(position)
    period = 2 * (length - 1)
    position = jnp.mod(position, period)
    return jnp.minimum(position, period - position)


def sample(image, rows, columns, mirrored: bool):
    """A picture [H, W, C] at a field of coordinates, bilinearly; beyond its border mirrored, or zeros."""
    height, width, channels = image.shape
    border = 0 if mirrored else 1
    if mirrored:
        rows, columns = mirror(rows, height), mirror(columns, width)
    else:  # a border of one zero, beyond which everything is as good as on it
        image = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
        rows, columns = jnp.clip(rows + 1, 0, height + 1), jnp.clip(columns + 1, 0, width + 1)
    height, width = height + 2 * border, width + 2 * border
    top, left = (
        jnp.clip(jnp.floor(p), 0, max(n - 2, 0)).astype(jnp.int32) for p, n in ((rows, height), (columns, width))
    )
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    pixels = image.reshape(-1, channels)
    below, beside = min(1, height - 1), min(1, width - 1)

    def pixel(row, column):
        return jnp.take(pixels, (top + row) * width + left + column, axis=0, mode="clip")

    upper = pixel(0, 0) * (1 - right) + pixel(0, beside) * right
    lower = pixel(below, 0) * (1 - right) + pixel(below, beside) * right
    return upper * (1 - down) + lower * down


def nearest(array, rows, columns):
    """An array [H, W] at a field of coordinates: the nearest pixel, mirrored beyond the border."""
    height, width = array.shape
    row, column = (jnp.round(mirror(p, n)).astype(jnp.int32) for p, n in ((rows, height), (columns, width)))
    return jnp.take(array.reshape(-1), row * width + column, mode="clip")

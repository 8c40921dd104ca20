"""What covers a part of a picture, or blends it with another one of the batch: cutout, mixup, cutmix.

All take one picture [H, W, C] float32; `jax.vmap` makes them batched.
"""

import jax
import jax.numpy as jnp
from jax import lax


def box_at(row, column, height, width, shape):
    """(top, bottom, left, right) of a box of (height, width) pixels about a pixel, clipped to a picture's shape."""
    top, left = row - height // 2, column - width // 2
    bottom, right = top + height, left + width
    return (*(jnp.clip(y, 0, shape[0]) for y in (top, bottom)), *(jnp.clip(x, 0, shape[1]) for x in (left, right)))


def inside(box, shape):
    """[H, W, 1] bool: the pixels inside a box (top, bottom, left, right)."""
    top, bottom, left, right = box
    y, x = jnp.arange(shape[0])[:, None, None], jnp.arange(shape[1])[None, :, None]
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def random_pixel(key, shape):
    """(row, column) of a pixel, uniform over the picture."""
    return jax.random.randint(key, (2,), 0, jnp.array(shape[:2]))


def cutout(key, image, size: int):
    """The picture with a square of `size` pixels set to zero (black). Its middle is uniform over the picture's pixels.

    What of the square lies beyond the border is lost, so that the covered area varies (DeVries and Taylor 2017).
    """
    box = box_at(*random_pixel(key, image.shape), size, size, image.shape)
    return jnp.where(inside(box, image.shape), 0, image)


def random_share(key, alpha: float):
    """A number from Beta(alpha, alpha)."""
    # Beta(1, 1), CutMix's own choice, is the uniform distribution, which compiles and runs several times faster.
    return jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)


def mixup(key, image, partner, alpha: float):
    """(blended picture, its own share of it): share ~ Beta(alpha, alpha), drawn for this picture.

    Zhang et al. 2018: share * image + (1 - share) * partner, and the same for the loss.
    """
    share = random_share(key, alpha)
    return share * image + (1 - share) * partner, share


def cutmix(key, image, partner, alpha: float):
    """(picture with a box of the partner pasted at the same place, the part of its area that is still its own).

    Yun et al. 2019: with lambda ~ Beta(alpha, alpha), drawn for this picture, the box has the picture's shape and
    1 - lambda of its area, in whole pixels; its middle is uniform over the pixels, and it is clipped at the border. The
    share is what is then really left, not lambda.
    """
    share_key, place_key = jax.random.split(key)
    height, width, _ = image.shape
    side = jnp.sqrt(1 - random_share(share_key, alpha))
    size = ((length * side).astype(jnp.int32) for length in (height, width))
    box = top, bottom, left, right = box_at(*random_pixel(place_key, image.shape), *size, image.shape)
    share = 1 - ((bottom - top) * (right - left)).astype(jnp.float32) / (height * width)
    return jnp.where(inside(box, image.shape), partner, image), share


def partners(key, position, axis_name: str | None = None):
    """For each row of the batch, the row of the global batch that is mixed into it [B] int32: a random permutation.

    It goes by the pictures' positions [B] in the global batch, not by the rows they happen to lie in, so that the same
    two pictures meet on any number of devices. With an axis name, the rows are counted over all devices of that axis.
    """
    rows = jnp.arange(len(position))
    if axis_name is not None:
        rows += lax.axis_index(axis_name) * len(position)
    order = jnp.argsort(everywhere(position, axis_name))
    drawn = jnp.zeros_like(order).at[order].set(jax.random.permutation(key, order))
    return drawn[rows]


def everywhere(array, axis_name: str | None = None):
    """The rows of all devices [global B, ...], where a batch is spread over a named axis; else the array itself."""
    return jnp.asarray(array) if axis_name is None else lax.all_gather(array, axis_name, tiled=True)

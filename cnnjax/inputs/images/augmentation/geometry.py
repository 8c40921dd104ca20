"""Crops, reflections and affine maps of one picture [H, W, C], as pure functions; `jax.vmap` makes them batched."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def crop(image, top, left, size: int):
    """The square [size, size, C] of a picture [H, W, C] whose first pixel is (top, left). Values are copied exactly."""
    return lax.dynamic_slice(image, (top, left, 0), (size, size, image.shape[-1]))


def centre_crop(image, size: int):
    """The middle [..., size, size, C] of pictures [..., H, W, C]; an odd pixel is left over below and on the right."""
    top, left = ((length - size) // 2 for length in image.shape[-3:-1])
    return image[..., top : top + size, left : left + size, :]


def ten_crop(image, size: int):
    """The four corners and the middle of pictures [..., H, W, C], and their mirror images: [..., 10, size, size, C].

    Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """
    down, right = (length - size for length in image.shape[-3:-1])
    corners = [image[..., t : t + size, l : l + size, :] for t in (0, down) for l in (0, right)]
    five = [*corners, centre_crop(image, size)]
    return jnp.stack([*five, *map(flip, five)], axis=-4)


def crop_positions(length: int, size: int) -> int:
    """How many offsets `random_crop` draws from along one side: 0, 1, ..., crop_positions - 1.

    A crop of `size` fits at length - size + 1 places. AlexNet's paper counts 32 of them for 224 of 256 (and so 2,048
    views), one fewer than fit, while the 30 for 227 of 256 are all that fit. So where the number of places is odd, the
    last offset is left out (33 -> 32), and where it is even, all are used (30); a crop as large as the picture has one.
    """
    return max(1, (length - size + 1) // 2 * 2)


def crop_views(height: int, width: int, size: int, flip: bool) -> int:
    """How many views of one picture random_crop (and flip) can give: 2,048 for 224 of 256 with reflections."""
    return crop_positions(height, size) * crop_positions(width, size) * (2 if flip else 1)


def random_crop(key, image, size: int):
    """A square [size, size, C] of a picture [H, W, C], its offsets uniform over `crop_positions`.

    Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """
    positions = jnp.array([crop_positions(length, size) for length in image.shape[:2]])
    top, left = jax.random.randint(key, (2,), 0, positions)
    return crop(image, top, left, size)


def pad_and_crop(key, image, pad: int):
    """A picture [H, W, C] moved by -pad..pad whole pixels in each direction, uniformly; zeros come in from outside.

    He et al. 2016, section 4.2 (pad by 4, crop 32 of 40).
    """
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(image):
    """The mirror image of pictures [..., H, W, C]: left becomes right."""
    return image[..., ::-1, :]


def random_flip(key, image):
    """A picture [H, W, C], reflected left and right with probability 1/2 (Krizhevsky et al. 2012, section 4.1)."""
    return jnp.where(jax.random.bernoulli(key), flip(image), image)


def random_vertical_flip(key, image):
    """A picture [H, W, C], reflected above and below with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[::-1], image)


def random_quarter_turn(key, image):
    """A square picture [H, H, C], turned counter-clockwise by 0, 90, 180 or 270 degrees, each with probability 1/4."""
    half, quarter = jax.random.bernoulli(key, shape=(2,))
    image = jnp.where(half, image[::-1, ::-1], image)
    return jnp.where(quarter, image.swapaxes(0, 1)[::-1], image)


def affine_matrix(angle, scale, shear, down, right):
    """The [2, 3] matrix for `affine` that scales, shears, turns, then moves what is seen, in this order.

    `angle` in radians turns counter-clockwise; `scale` above 1 enlarges; `shear` in radians moves a row to the right by
    tan(shear) times its distance below the centre; `down` and `right` are pixels.
    """
    # `affine` asks where a pixel of the result comes from, so this is the inverse of that chain of maps.
    cos, sin, tan = jnp.cos(angle), jnp.sin(angle), jnp.tan(shear)
    linear = jnp.array([[cos, sin], [-sin - tan * cos, cos - tan * sin]]) / scale
    offset = -(linear[:, 0] * down + linear[:, 1] * right)
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def affine(image, matrix):
    """A picture [H, W, C] seen through an affine map, sampled bilinearly, with zeros outside.

    `matrix` [2, 3] takes (y, x, 1) of a pixel of the result to (y, x) in the input, both in pixels from the picture's
    centre. Within a pixel of the border the picture blends into the zeros around it.
    """
    height, width, channels = image.shape
    y = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[:, None]
    x = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None, :]

    def source(row, length):
        # Written out, not as a matrix product, which an accelerator would round to fewer digits. The border of one zero
        # adds 1 to the coordinates, and everything beyond it is as good as on it.
        place = matrix[row, 0] * y + matrix[row, 1] * x + matrix[row, 2] + ((length - 1) / 2 + 1)
        place = jnp.clip(place, 0, length + 1)
        first = jnp.clip(jnp.floor(place), 0, length)
        return first.astype(jnp.int32), (place - first)[:, :, None]

    (top, down), (left, right) = source(0, height), source(1, width)
    pixels = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)

    def pixel(below, beside):
        return jnp.take(pixels, (top + below) * (width + 2) + left + beside, axis=0, mode="clip")

    above = pixel(0, 0) * (1 - right) + pixel(0, 1) * right
    below = pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    return above * (1 - down) + below * down


def random_affine(key, image, rotation: float, scale: float, shear: float, shift: float):
    """A picture [H, W, C] turned, scaled, sheared and moved about its centre, in one resampling.

    The angle is uniform in +-rotation degrees, the factor in 1 +- scale, the shear in +-shear degrees, the way in
    +-shift times the height (down) and width (right), each drawn by itself. Compare Simard, Steinkraus and Platt 2003.
    """
    return affine(image, random_matrix(key, image.shape, rotation, scale, shear, shift))


def random_matrix(key, shape, rotation: float, scale: float, shear: float, shift: float):
    """The [2, 3] matrix of `random_affine` for a picture of a shape (H, W, C)."""
    angle, factor, slant, down, right = jax.random.uniform(key, (5,), minval=-1.0)
    height, width, _ = shape
    return affine_matrix(
        math.radians(rotation) * angle,
        1 + scale * factor,
        math.radians(shear) * slant,
        shift * height * down,
        shift * width * right,
    )


def resize_box(image, top, left, height, width, size: int):
    """The box [top : top + height, left : left + width] of pictures [..., H, W, C], scaled to [..., size, size, C].

    Bilinear; where the box shrinks, the filter is as wide as the step, so that nothing is skipped. Pixels outside the
    box have no part in it: the result is that of cutting the box out first.
    """
    rows = _resize_weights(top, height, image.shape[-3], size)
    columns = _resize_weights(left, width, image.shape[-2], size)
    image = jnp.einsum("sh,...hwc->...swc", rows, image, precision=lax.Precision.HIGHEST)
    return jnp.einsum("sw,...hwc->...hsc", columns, image, precision=lax.Precision.HIGHEST)


def _resize_weights(start, length, whole: int, size: int):
    """[size, whole]: how much of the pixels start..start + length - 1 goes into each of `size` even samples."""
    step = length / size
    samples = start + (jnp.arange(size) + 0.5) * step - 0.5
    pixels = jnp.arange(whole)
    distance = jnp.abs(samples[:, None] - pixels[None, :])
    inside = (pixels >= start) & (pixels < start + length)
    weights = jnp.maximum(0, 1 - distance / jnp.maximum(step, 1)) * inside[None, :]
    return weights / weights.sum(axis=1, keepdims=True)


def random_box(key, height: int, width: int, area: float, aspect: float):
    """(top, left, height, width) of a random box of whole pixels inside a picture.

    Its area is uniform in [area, 1] of the picture's. The logarithm of its aspect ratio (width / height) is uniform
    over that part of [1/aspect, aspect] in which a box of this area fits: nothing has to be drawn again. Where no ratio
    fits (a large part of a long picture), the nearest one is taken and the box made smaller until it does. Its place is
    uniform.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, minval=area, maxval=1.0) * (height * width)
    limit = math.log(aspect)
    low = jnp.clip(jnp.log(area / height**2), -limit, limit)
    high = jnp.clip(jnp.log(width**2 / area), -limit, limit)
    ratio = jnp.exp(low + (high - low) * jax.random.uniform(aspect_key))
    fitting = jnp.minimum(jnp.sqrt(area / ratio), jnp.minimum(height, width / ratio))
    whole = jnp.array([height, width])
    size = jnp.clip(jnp.round(jnp.stack([fitting, fitting * ratio])).astype(jnp.int32), 1, whole)
    top, left = jax.random.randint(place_key, (2,), 0, whole - size + 1)
    return top, left, size[0], size[1]


def random_resized_crop(key, image, size: int, area: float, aspect: float):
    """A `random_box` of a picture [H, W, C], scaled to [size, size, C] (Szegedy et al. 2015, section 6)."""
    return resize_box(image, *random_box(key, *image.shape[:2], area, aspect), size)

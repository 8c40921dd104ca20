"""Changes of the colours of one picture [H, W, C] float32 in [0, 1], as pure functions; `jax.vmap` makes them batched.

Brightness, contrast and saturation cut their result off at 0 and 1, as a camera would; hue stays inside by itself.
"""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: what red, green and blue give to the brightness that is seen


def random_amount(key, amount: float):
    """A number uniform in [-amount, amount)."""
    return amount * jax.random.uniform(key, minval=-1.0)


def grey(image):
    """The brightness [H, W, 1] of a picture: BT.601 luma of three channels, the mean of any other number."""
    if image.shape[-1] == 3:
        return sum(share * image[:, :, c : c + 1] for c, share in enumerate(LUMA))
    return image.mean(axis=-1, keepdims=True)


def brightness(image, factor):
    """The picture times a factor (drawn from 1 +- brightness)."""
    return jnp.clip(image * factor, 0, 1)


def contrast(image, factor):
    """The picture stretched by a factor (drawn from 1 +- contrast) about the mean of its grey; 0 leaves that mean."""
    mean = grey(image).mean()
    return jnp.clip(mean + factor * (image - mean), 0, 1)


def saturation(image, factor):
    """The picture's distance from its grey form times a factor (drawn from 1 +- saturation); 0 leaves the grey form.

    A picture that does not have three channels stays as it is.
    """
    if image.shape[-1] != 3:
        return image
    plain = grey(image)
    return jnp.clip(plain + factor * (image - plain), 0, 1)


def hue(image, turn):
    """The picture with its hue (of HSV) turned by a fraction of the circle (drawn from +-hue); 1/3 makes red green.

    A picture that does not have three channels stays as it is.
    """
    if image.shape[-1] != 3:
        return image
    red, green, blue = image[:, :, 0], image[:, :, 1], image[:, :, 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)  # greys have no hue, and none is needed: their chroma is 0
    sixths = jnp.select(
        [value == red, value == green],
        [(green - blue) / divisor, 2 + (blue - red) / divisor],
        4 + (red - green) / divisor,
    )
    # Each channel falls from its height to its lowest as the hue goes from one to two sixths away from its colour.
    away = (jnp.array([5.0, 3.0, 1.0])[None, None, :] + (sixths + 6 * turn)[:, :, None]) % 6
    fall = jnp.clip(jnp.minimum(away, 4 - away), 0, 1)
    return value[:, :, None] - chroma[:, :, None] * fall


def pca_noise(key, image, components, std: float):
    """AlexNet's colour noise: one colour, drawn once, is added to all pixels of a picture [H, W, C].

    The colour is components @ alpha with alpha ~ N(0, std^2) [C], so its covariance is std^2 times that of the pixels.
    The columns of `components` [C, C] are the eigenvectors p_i of the covariance of the pixels times the roots of its
    eigenvalues, as in `data.source.Statistics`.

    Krizhevsky, Sutskever and Hinton 2012, section 4.1, write p_i alpha_i lambda_i with the eigenvalue itself. That
    depends on the unit of a pixel, and in their unit of 0..255 would be noise of over a thousand; their published code
    (cuda-convnet) multiplies by the standard deviations along the components, the roots, and so do we. Values may leave
    [0, 1] a little; as in that code, they are not cut off.
    """
    alpha = std * jax.random.normal(key, (image.shape[-1],))
    # Written out, not as a matrix product, which an accelerator would round to fewer digits, nor as a sum over an axis,
    # which jaxlib 0.10.2 gets wrong on a CPU for a large vmapped batch (jax issue 39103).
    components = jnp.asarray(components, jnp.float32)
    colour = sum(components[:, i] * alpha[i] for i in range(image.shape[-1]))
    return image + colour[None, None, :]


def noise(key, image, deviation: float):
    """The picture and normal noise of a deviation, drawn for each value. Cut off at 0 and 1."""
    return jnp.clip(image + deviation * jax.random.normal(key, image.shape), 0, 1)

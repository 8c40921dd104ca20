"""Images as what training and evaluation call: see `cnnjax/inputs/__init__.py`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.inputs.images import augmentation
from cnnjax.inputs.images.options import Options
from cnnjax.inputs.images.statistics import Statistics, statistics


class Images(NamedTuple):
    """Images `[B, H, W, C]` uint8, uint16 or float32 in a batch's `image`, brought to float32 by the rules of `options`."""

    options: Options

    def output_shape(self, example_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Of an image after augmentation. Raises UserError where that cannot be done to it."""
        height, width, channels = example_shape
        return (*augmentation.output_size(height, width, self.options.augmentation), channels)

    def statistics(self, split) -> Statistics:
        """Of the images of a split."""
        return statistics(split)

    def augment(self, key: jax.Array, batch: dict, statistics: Statistics, axis_name: str | None = None) -> dict:
        """A training batch with its random changes, normalised."""
        batch = augmentation.augment(key, batch, self.options.augmentation, statistics, axis_name)
        return batch | dict(image=normalize(batch["image"], statistics, self.options.normalization))

    def view(self, batch: dict, statistics: Statistics) -> dict:
        """What evaluation sees: images `[B, H, W, C]`, or several views of each `[B, V, H, W, C]`, normalised."""
        image = augmentation.evaluation_view(batch["image"], self.options.augmentation)
        return batch | dict(image=normalize(image, statistics, self.options.normalization))


def normalize(image: jax.Array, statistics: Statistics, how: str) -> jax.Array:
    """`[..., H, W, C]` in [0, 1] -> centred and scaled per channel.

    By the statistics ('dataset'), to [-1, 1] ('unit'), to 0..255 less the mean ('mean', the scale that AlexNet's and
    VGG's learning rates assume), or not at all ('none').
    """
    if how == "none":
        return image
    half = np.full(1, 0.5, np.float32)
    mean, std = dict(
        dataset=(statistics.mean, statistics.std),
        unit=(half, half),
        mean=(statistics.mean, np.full(1, 1 / 255, np.float32)),
    )[how]
    shape = (1,) * (image.ndim - 1) + (-1,)
    return (image - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)

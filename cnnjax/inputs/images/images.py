"""Images as what training and evaluation call: see `cnnjax/inputs/__init__.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.inputs.images import augmentation, decoding
from cnnjax.inputs.images.options import Options
from cnnjax.inputs.images.statistics import Statistics, statistics


class Images(NamedTuple):
    """Images `[B, H, W, C]` uint8, uint16 or float32 in a batch's `image`, brought to float32 by the rules of `options`."""

    options: Options

    def output_shape(self, example_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Of an image after augmentation. Raises UserError where that cannot be done to it."""
        height, width, channels = example_shape
        return (*augmentation.output_size(height, width, self.options.augmentation), channels)

    def describe(self, example_shape: tuple[int, int, int]) -> str:
        """'8x8x1', or that images are of their own sizes."""
        height, width, channels = example_shape
        own = f"of {channels} channel{'s' * (channels > 1)} and their own sizes"
        return f"{height}x{width}x{channels}" if height else own

    def statistics(self, split) -> dict[str, np.ndarray]:
        """Of the images of a split: `mean` and `std` `[C]`, `components` `[C, C]`."""
        return statistics(split)._asdict()

    def augment(self, key: jax.Array, batch: dict, statistics: dict, axis_name: str | None = None) -> dict:
        """A training batch with its random changes, normalised."""
        statistics = Statistics(**statistics)
        batch = augmentation.augment(key, batch, self.options.augmentation, statistics, axis_name)
        return batch | dict(image=normalize(batch["image"], statistics, self.options.normalization))

    def view(self, image: jax.Array, statistics: dict) -> jax.Array:
        """What evaluation sees of images `[B, H, W, C]` as stored: `[B, V, H, W, C]`, normalised."""
        views = augmentation.evaluation_view(image, self.options.augmentation)
        views = views if views.ndim > image.ndim else views[:, None]
        return normalize(views, Statistics(**statistics), self.options.normalization)

    def reader(self, example_shape: tuple[int, int, int], dtype: str) -> Callable[[Path], np.ndarray]:
        """A function of the path of an image file to `[H, W, C]` as stored, which raises Unreadable.

        Raises:
          UserError: image files do not hold such examples.
        """
        height, width, channels = example_shape
        if channels not in (1, 3) or dtype.startswith("float"):
            raise UserError(f"Image files are grey or RGB; this run was trained on {channels} channels of {dtype}.")
        size = (height, width) if height else 0
        return lambda path: decoding.read_image(path, channels=channels, size=size, resize=self.options.resize)


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

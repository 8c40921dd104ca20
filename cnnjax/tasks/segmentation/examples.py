"""From images with a class for every pixel to examples of one shape: crops to train on, tiles to be scored by."""

import jax
import jax.numpy as jnp

from cnnjax.data.pipeline import is_held
from cnnjax.data.source import Scenes, Split
from cnnjax.tasks.segmentation import tiling
from cnnjax.tasks.segmentation.border_weights import weighted
from cnnjax.tasks.segmentation.crops import crops
from cnnjax.tasks.segmentation.options import Options


def examples(options: Options, network, config, train: Scenes, validation: Scenes | None, test: Scenes | None) -> tuple:
    """Crops of train, tiles of validation and test.

    Raises:
      UserError: the network's answer would depend on how an image is cut.
    """
    side, _, _ = network.input_shape
    reach = reach_of(network, config)
    if options.border_weight:
        train = weighted(train, options.border_weight, options.border_width)
    parts = crops(train, side, side - reach.shrinks, is_held(train))
    return parts, *(images and tiles(options, reach, images) for images in (validation, test))


def tiles(options: Options, reach: tiling.Reach, images: Scenes) -> Split:
    """Whole images as tiles: no larger than the largest of them needs, and `config.task.tile`."""
    return tiling.tiles(images, tiling_of(options, reach, int(images.sizes.max())), is_held(images))


def tiling_of(options: Options, reach: tiling.Reach, largest: int) -> tiling.Tiling:
    """The tiles for images of sides up to `largest`."""
    return tiling.tiling_for(reach, largest, options.tile, options.margin, options.crop)


def reach_of(network, config) -> tiling.Reach:
    """What the network's geometry asks of tiles."""
    side, _, channels = network.input_shape
    shapes = jax.eval_shape(lambda: network.model.init(jax.random.key(0), jnp.zeros((1, side, side, channels))))

    def function(image: jax.Array) -> jax.Array:
        # Any numbers do: where the network looks does not depend on them.
        variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
        return network.model.apply(variables, image, train=False)

    return tiling.reach_of(function, channels, config.model.stride, config.model.name, side)

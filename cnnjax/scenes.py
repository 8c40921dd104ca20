"""From pictures with a class for every pixel to examples of one shape: crops to train on, tiles to be scored by."""

import jax
import jax.numpy as jnp

from cnnjax import models, tiling
from cnnjax.config import Config
from cnnjax.data.border_weights import weighted
from cnnjax.data.crops import crops
from cnnjax.data.pipeline import is_held
from cnnjax.data.source import Scenes, Split


def examples(config: Config, network, train: Scenes, validation: Scenes | None, test: Scenes | None) -> tuple:
    """Crops of train, tiles of validation and test.

    Raises:
      UserError: the network's answer would depend on how a picture is cut.
    """
    options, (side, _, _) = config.segmentation, network.input_shape
    reach = reach_of(config, network)
    if options.border_weight:
        train = weighted(train, options.border_weight, options.border_width)
    parts = crops(train, side, side - reach.shrinks, is_held(train))
    return parts, *(scenes and tiles(config, reach, scenes) for scenes in (validation, test))


def tiles(config: Config, reach: tiling.Reach, scenes: Scenes) -> Split:
    """Whole pictures as tiles: no larger than the largest of them needs, and `config.segmentation.tile`."""
    return tiling.tiles(scenes, tiling_of(config, reach, int(scenes.sizes.max())), is_held(scenes))


def tiling_of(config: Config, reach: tiling.Reach, largest: int) -> tiling.Tiling:
    """The tiles for pictures of sides up to `largest`."""
    options = config.segmentation
    return tiling.tiling_for(reach, largest, options.tile, options.margin, options.crop)


def reach_of(config: Config, network) -> tiling.Reach:
    """What the network's geometry asks of tiles."""
    side, _, channels = network.input_shape
    shapes = jax.eval_shape(lambda: network.model.init(jax.random.key(0), jnp.zeros((1, side, side, channels))))

    def function(image: jax.Array) -> jax.Array:
        # Any numbers do: where the network looks does not depend on them.
        variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
        return network.model.apply(variables, image, train=False)

    return tiling.reach_of(function, channels, config.model.stride, models.name_of(config.model), side)

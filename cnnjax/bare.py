"""A network without its data: what inspects or times one needs no more."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import experiment, models
from cnnjax.config import Config
from cnnjax.errors import UserError

LARGEST = 2**31 - 1  # along one axis


def network_alone(
    config: Config, shape: str = "", classes: str = "", has_data: bool = True
) -> tuple[nn.Module, tuple[int, ...]]:
    """The model of a configuration and the shape `(*spatial, C)` of its input, without weights.

    Args:
      shape: '227,227,3'; empty: as augmentation leaves the data's pictures, and of a model without data as published.
      classes: how many; empty: as the data have it, and of a model without data 1000.

      has_data: whether the configuration is of an experiment, and not of a network by its name.

    Raises:
      UserError: either is no such number.
    """
    sizes = tuple(positive(n, "--input", "height,width,channels: --input=224,224,3") for n in shape.split(",") if shape)
    count = positive(classes, "--classes", "a whole number") if classes else 0
    published = config.model.input_shape
    if shape and len(sizes) != len(published):
        name, form = (
            models.name_of(config.model),
            "height,width,channels" if len(published) == 3 else "lengths,channels",
        )
        raise UserError(f"--input={shape} must be {form} for {name}: {','.join(map(str, published))} as published.")
    if not (sizes and count) and has_data:
        dataset = experiment.open_data(config)
        sizes = sizes or config.task.build().input_shape(dataset.image_shape, config)
        count = count or len(dataset.class_names)
    model = config.model.build(count or 1000, jnp.dtype(config.dtype), config.remat)
    return model, sizes or published


def positive(text: str, flag: str, form: str) -> int:
    """A whole number above 0 that was typed. Raises UserError, naming the flag, for anything else."""
    if not (text.isascii() and text.strip().isdigit()) or int(text) == 0:
        raise UserError(f"{flag} must be {form}, not {text!r}.")
    if int(text) > LARGEST:
        raise UserError(f"{flag}: {text} is too large: at most {LARGEST:,}.")
    return int(text)


def image_like(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """The shape and type of one example `[1, *spatial, C]`."""
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

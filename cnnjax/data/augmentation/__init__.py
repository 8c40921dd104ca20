"""Random changes of training pictures, as pure functions that run on the device inside the compiled training step.

`augment` is the whole pipeline; single operations stand in `geometry`, `colour` and `mixing`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Augmentation
from cnnjax.data.augmentation import colour, geometry, mixing
from cnnjax.data.source import Statistics
from cnnjax.errors import UserError

EVALUATION_CROP = 224 / 256  # side of the middle part that evaluation sees where training sees random_resized_crop
BATCH = np.uint32(2**32 - 1)  # folded into the key for what the whole batch shares; no picture has this position


def to_unit(image):
    """Pictures as float32 in [0, 1]: uint8 / 255, uint16 / 65535; float32 stays as it is."""
    if image.dtype == jnp.float32:
        return jnp.asarray(image)
    if image.dtype not in (jnp.uint8, jnp.uint16):
        raise TypeError(f"Pictures are uint8, uint16 or float32, not {image.dtype}.")
    return jnp.asarray(image).astype(jnp.float32) / jnp.iinfo(image.dtype).max


def augment(key, batch, options: Augmentation, statistics: Statistics | None = None, axis_name: str | None = None):
    """A training batch with the random changes that `options` switches on, in the order of their fields.

    Args:
      key: of this step. A picture's randomness is fold_in(key, position): the same however a batch is split.
      batch: 'image' [B, H, W, C] uint8, uint16 or float32; 'label' [B] int32; 'position' [B] int32, the picture's place
        in the global batch, below 2^31. Other entries pass through.
      options: static; what is off costs nothing.
      statistics: of the training pictures; pca_noise needs their components.
      axis_name: of the devices that a batch is spread over by `pmap` or `shard_map`, so that mixup and cutmix find
        partners on all of them. Under plain `jit` the batch is the global one.

    Returns:
      The batch with 'image' [B, *output_size, C] float32. With mixup or cutmix also 'partner_label' [B] int32 and
      'share' [B] float32, of the own label: loss = share * loss(label) + (1 - share) * loss(partner_label).
    """
    output_size(*batch["image"].shape[1:3], options)
    if options.pca_noise and statistics is None:
        raise ValueError("pca_noise needs the statistics of the training pictures.")
    # Every operation has a key of its own, so that switching one on leaves the others' randomness as it is.
    keys = jax.vmap(lambda position: jax.random.split(jax.random.fold_in(key, position), 13))(batch["position"])
    image = jax.vmap(lambda keys, image: _augment_one(keys, image, options, statistics))(keys, to_unit(batch["image"]))
    batch = {**batch, "image": image}
    if options.mixup or options.cutmix:
        batch = _mix(jax.random.fold_in(key, BATCH), keys, batch, options, axis_name)
    return batch


def _augment_one(keys, image, options: Augmentation, statistics: Statistics | None):
    """One picture [H, W, C] float32 in [0, 1], through everything that needs no other picture."""
    if options.random_resized_crop:
        image = geometry.random_resized_crop(
            keys[0], image, options.random_resized_crop, options.crop_area, options.crop_aspect
        )
    if options.random_crop:
        image = geometry.random_crop(keys[1], image, options.random_crop)
    if options.pad_and_crop:
        image = geometry.pad_and_crop(keys[2], image, options.pad_and_crop)
    if options.flip:
        image = geometry.random_flip(keys[3], image)
    if options.rotation or options.scale or options.shear or options.shift:
        image = geometry.random_affine(keys[4], image, options.rotation, options.scale, options.shear, options.shift)
    if options.brightness:
        image = colour.brightness(image, 1 + colour.random_amount(keys[5], options.brightness))
    if options.contrast:
        image = colour.contrast(image, 1 + colour.random_amount(keys[6], options.contrast))
    if options.saturation:
        image = colour.saturation(image, 1 + colour.random_amount(keys[7], options.saturation))
    if options.hue:
        image = colour.hue(image, colour.random_amount(keys[8], options.hue))
    if options.pca_noise:
        image = colour.pca_noise(keys[9], image, statistics.components, options.pca_noise)
    if options.cutout:
        image = mixing.cutout(keys[10], image, options.cutout)
    return image


def _mix(key, keys, batch, options: Augmentation, axis_name: str | None):
    """The batch with mixup or cutmix; where both are on, one of them for the whole batch, each with probability 1/2."""
    partner_key, choice_key = jax.random.split(key)
    row = mixing.partners(partner_key, batch["position"], axis_name)
    partner_image = mixing.everywhere(batch["image"], axis_name)[row]
    partner_label = mixing.everywhere(batch["label"], axis_name)[row]

    def mixed(operation, number, alpha):
        return jax.vmap(lambda key, *pair: operation(key, *pair, alpha))(keys[:, number], batch["image"], partner_image)

    if options.mixup and options.cutmix:
        pair = mixed(mixing.mixup, 11, options.mixup), mixed(mixing.cutmix, 12, options.cutmix)
        image, share = jax.tree.map(lambda a, b: jnp.where(jax.random.bernoulli(choice_key), a, b), *pair)
    elif options.mixup:
        image, share = mixed(mixing.mixup, 11, options.mixup)
    else:
        image, share = mixed(mixing.cutmix, 12, options.cutmix)
    return {**batch, "image": image, "partner_label": partner_label, "share": share}


def evaluation_view(image, options: Augmentation):
    """What evaluation sees of pictures [..., H, W, C]: float32 in [0, 1], as large as in training, nothing at random.

    Where training sees random_resized_crop, this is the middle square with 224/256 of the shorter side, scaled; where
    it sees random_crop, the middle crop, or [..., 10, H, W, C], the ten of `geometry.ten_crop`.
    """
    height, width = image.shape[-3:-1]
    output_size(height, width, options)
    image = to_unit(image)
    if options.random_resized_crop:
        side = max(1, round(EVALUATION_CROP * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        image = geometry.resize_box(image, top, left, side, side, options.random_resized_crop)
    if options.random_crop:
        crop = geometry.ten_crop if options.views == "ten_crop" else geometry.centre_crop
        image = crop(image, options.random_crop)
    return image


def output_size(height: int, width: int, options: Augmentation) -> tuple[int, int]:
    """(height, width) of a picture after augmentation.

    Raises:
      UserError: random_crop is larger than the picture.
    """
    if options.random_resized_crop:
        height = width = options.random_resized_crop
    if options.random_crop:
        size = options.random_crop
        if size > min(height, width):
            raise UserError(
                f"config.augmentation.random_crop is {size}, but the pictures are {height} x {width} pixels; "
                f"it can be at most {min(height, width)}."
            )
        height = width = size
    return height, width

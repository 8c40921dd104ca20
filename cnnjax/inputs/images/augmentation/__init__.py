"""Random changes of training pictures, as pure functions that run on the device inside the compiled training step.

`augment` is the whole pipeline; single operations stand in `geometry`, `colour` and `mixing`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.inputs.images.augmentation import colour, geometry, mixing, warp
from cnnjax.inputs.images.options import Augmentation
from cnnjax.inputs.images.statistics import Statistics

EVALUATION_CROP = 224 / 256  # side of the middle part that evaluation sees where training sees random_resized_crop
LATER = 1000  # folded into a picture's key for the operations that have no key among its first 13
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
        in the global batch, below 2^31. With 'mask' [B, H, W] uint8 (and 'pixel_weight' [B, H, W] float32), these move
        with the picture, and beyond its border all go on as their mirror image. Other entries pass through.
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
    own = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["position"])
    keys = jax.vmap(lambda key: jax.random.split(key, 13))(own)
    later = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, LATER), 4))(own)
    moving = {name: batch[name] for name in ("mask", "pixel_weight") if name in batch}

    def one(keys, later, image, moving):
        return _augment_one(keys, later, image, moving, options, statistics)

    image, moving = jax.vmap(one)(keys, later, to_unit(batch["image"]), moving)
    batch = batch | moving
    batch = {**batch, "image": image}
    if options.mixup or options.cutmix:
        batch = _mix(jax.random.fold_in(key, BATCH), keys, batch, options, axis_name)
    return batch


def _augment_one(keys, later, image, moving, options: Augmentation, statistics: Statistics | None):
    """One picture [H, W, C] float32 in [0, 1], through everything that needs no other picture; and what moves with it."""
    if options.random_resized_crop:
        image = geometry.random_resized_crop(
            keys[0], image, options.random_resized_crop, options.crop_area, options.crop_aspect
        )
    if options.random_crop:
        image = geometry.random_crop(keys[1], image, options.random_crop)
    if options.pad_and_crop:
        image = geometry.pad_and_crop(keys[2], image, options.pad_and_crop)

    def everything(operation, key):
        lifted = lambda array: operation(key, array[..., None])[..., 0]
        return operation(key, image), {name: lifted(array) for name, array in moving.items()}

    if options.flip:
        image, moving = everything(geometry.random_flip, keys[3])
    if options.flip_vertical:
        image, moving = everything(geometry.random_vertical_flip, later[0])
    if options.quarter_turns:
        image, moving = everything(geometry.random_quarter_turn, later[1])
    affine = options.rotation or options.scale or options.shear or options.shift
    if affine and not moving and not options.elastic:
        image = geometry.random_affine(keys[4], image, options.rotation, options.scale, options.shear, options.shift)
    elif affine or options.elastic:
        matrix = geometry.random_matrix(
            keys[4], image.shape, options.rotation, options.scale, options.shear, options.shift
        )
        rows, columns = warp.coordinates(image.shape, matrix)
        if options.elastic:
            down, right = warp.random_displacements(later[2], image.shape, options.elastic, options.elastic_grid)
            rows, columns = rows + down, columns + right
        image = warp.sample(image, rows, columns, mirrored=bool(moving))
        moving = {name: warp.nearest(array, rows, columns) for name, array in moving.items()}
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
    if options.noise:
        image = colour.noise(later[3], image, options.noise)
    if options.cutout:
        image = mixing.cutout(keys[10], image, options.cutout)
    return image, moving


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
      UserError: random_crop is larger than the picture, or quarter_turns would change its shape.
    """
    if options.random_resized_crop:
        height = width = options.random_resized_crop
    if options.random_crop:
        size = options.random_crop
        if size > min(height, width):
            raise UserError(
                f"config.input.augmentation.random_crop is {size}, but the pictures are {height} x {width} pixels; "
                f"it can be at most {min(height, width)}."
            )
        height = width = size
    if options.quarter_turns and height != width:
        raise UserError(
            f"config.input.augmentation.quarter_turns needs square pictures, not {height} x {width} pixels."
        )
    return height, width

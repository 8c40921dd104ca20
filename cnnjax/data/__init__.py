"""Where pictures come from, how they become batches, and how they are changed at random."""

import dataclasses

from cnnjax.config import Data
from cnnjax.data.masks import Code
from cnnjax.data.source import Dataset
from cnnjax.errors import UserError

LABELLED, MASKED = ("digits", "digit_pairs"), ("digit_scenes",)  # what the embedded sets have


def open_dataset(data: Data, target: str = "label", known: Code | None = None) -> Dataset:
    """The data set of a configuration, its splits ready to be read.

    Args:
      target: what its examples have: `label`, a class an example, or `mask`, a class for every pixel (its splits are Scenes).
      known: how the masks of a trained network's folder were read, for those of another to have its classes.

    Raises:
      UserError: an unknown name, no such targets, nothing prepared, an empty or damaged folder.
    """
    if target == "mask" and data.name in LABELLED:
        raise UserError(
            f"{data.name} has one class an image: take --config.data.name=digit_scenes, or --config.task=classification."
        )
    if target == "label" and data.name in MASKED:
        raise UserError(f"{data.name} has a class for every pixel: say --config.task=segmentation, and a U-Net.")
    if data.name == "folder" and target == "mask":
        from cnnjax.data.pairs import open_pairs

        return open_pairs(data, known)
    if data.name == "folder":
        from cnnjax.data.folder import open_folder

        return open_folder(data)
    if data.name == "digit_pairs":
        from cnnjax.data.digit_pairs import open_digit_pairs

        return open_digit_pairs(data)
    if data.name == "digit_scenes":
        from cnnjax.data.digit_scenes import open_digit_scenes

        return open_digit_scenes(data)
    if target == "mask":
        from cnnjax.data.tfds_scenes import open_tfds_scenes

        return open_tfds_scenes(data)
    from cnnjax.data.tfds_source import open_tfds

    if data.name == "digits":
        from cnnjax.data.digits import ensure_digits

        data = dataclasses.replace(data, data_dir=str(ensure_digits()))
    return open_tfds(data)

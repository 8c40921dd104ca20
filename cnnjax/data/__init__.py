"""Where pictures come from, how they become batches, and how they are changed at random."""

from cnnjax.config import Data
from cnnjax.data.masks import Code
from cnnjax.data.source import Dataset
from cnnjax.errors import UserError


def open_dataset(data: Data) -> Dataset:
    """The data set of a configuration, its splits ready to be read.

    Raises:
      UserError: an unknown name, nothing prepared, an empty or damaged folder.
    """
    if data.name == "digit_scenes":
        raise UserError("digit_scenes has a class for every pixel: say --config.task=segmentation, and a U-Net.")
    if data.name == "folder":
        from cnnjax.data.folder import open_folder

        return open_folder(data)
    if data.name == "digit_pairs":
        from cnnjax.data.digit_pairs import open_digit_pairs

        return open_digit_pairs(data)
    from cnnjax.data.tfds_source import open_tfds

    if data.name == "digits":
        import dataclasses

        from cnnjax.data.digits import ensure_digits

        data = dataclasses.replace(data, data_dir=str(ensure_digits()))
    return open_tfds(data)


def open_scenes(data: Data, known: Code | None = None) -> Dataset:
    """The data set of a configuration, with a class for every pixel: its splits are Scenes.

    `known`: how the masks of a trained network's folder were read, for those of another to have its classes.

    Raises:
      UserError: as `open_dataset`, or the set has no masks.
    """
    if data.name in ("digits", "digit_pairs"):
        raise UserError(
            f"{data.name} has one class a picture: take --config.data.name=digit_scenes, or task=classification."
        )
    if data.name == "digit_scenes":
        from cnnjax.data.digit_scenes import open_digit_scenes

        return open_digit_scenes(data)
    if data.name == "folder":
        from cnnjax.data.pairs import open_pairs

        return open_pairs(data, known)
    from cnnjax.data.tfds_scenes import open_tfds_scenes

    return open_tfds_scenes(data)

"""Where pictures come from, how they become batches, and how they are changed at random."""

from cnnjax.config import Data
from cnnjax.data.source import Dataset


def open_dataset(data: Data) -> Dataset:
    """The data set of a configuration, its splits ready to be read.

    Raises:
      UserError: an unknown name, nothing prepared, an empty or damaged folder.
    """
    if data.name == "folder":
        from cnnjax.data.folder import open_folder

        return open_folder(data)
    from cnnjax.data.tfds_source import open_tfds

    if data.name == "digits":
        import dataclasses

        from cnnjax.data.digits import ensure_digits

        data = dataclasses.replace(data, data_dir=str(ensure_digits()))
    return open_tfds(data)

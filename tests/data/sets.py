"""Data sets as `--config.source` and `--config.input` open them."""

import dataclasses

from cnnjax import inputs
from cnnjax.data import sources
from cnnjax.data.sources import choices as options


def opened(source, target="label", known=None, **of_input):
    """The data set of the options of a source, with images in the form that is asked for."""
    return sources.open_dataset(source, dataclasses.replace(inputs.options("images"), **of_input), target, known)


def opened_folder(kind, root, known=None, **fields):
    """That of a folder; fields of the source and of the input together."""
    of_source = {name: fields.pop(name) for name in list(fields) if name in {f.name for f in dataclasses.fields(kind)}}
    return opened(kind(dir=str(root), **of_source), kind.targets[0], known, **fields)


__all__ = ["opened", "opened_folder", "options"]

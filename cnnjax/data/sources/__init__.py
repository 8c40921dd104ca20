"""Where examples come from, by the names that `--config.source=NAME` takes.

A new source is a dataclass of options and a line here. Options have

- `name`, a plain field: the name in this table; then fields for what an experiment may vary;
- `targets`, a class attribute: which kinds of target it can give, of those that tasks take (`cnnjax/tasks/__init__.py`);
- `open(input, target, known) -> Dataset` (`cnnjax/data/source.py`): its examples in the form that the options of the input
  ask for; `known` is how the masks of a trained network were read, for those of other data to have its classes;
- `prepare(from_folder, log)`: makes it ready for reading, or says that it needs no preparation.
"""

from cnnjax import foreign
from cnnjax.data.sources import choices
from cnnjax.errors import UserError
from cnnjax.knobs import pick

SOURCES = {
    source.name: source
    for source in (
        choices.Digits(),
        choices.DigitPairs(),
        choices.DigitScenes(),
        choices.ClassFolder(),
        choices.MaskFolder(),
        choices.Tfds(),
    )
}


def options(name: str):
    """A fresh copy of the options of the source of a name. Raises UserError for an unknown one."""
    return pick(
        SOURCES, "source", name, more="; a set of tensorflow-datasets is --config.source=tfds --config.source.set=NAME"
    )


def name_of(options) -> str:
    """The name of options: that in the table, or of a class of one's own.

    Raises:
      UserError: these are no options of a source.
    """
    return foreign.name_of(options, SOURCES, "source", ("targets", "open"), "cnnjax/data/sources/__init__.py")


def open_dataset(source, input, target: str = "label", known=None):
    """The data set of a source, its splits ready to be read.

    Args:
      source, input: options of a source and of a kind of input.
      target: what its examples have: `label`, a class an example, or `mask`, a class for every pixel (its splits are Scenes).
      known: how the masks of a trained network's folder were read, for those of another to have its classes.

    Raises:
      UserError: the source has no such targets, nothing is prepared, a folder is empty or damaged.
    """
    name = name_of(source)
    if target not in source.targets:
        others = " or ".join(with_target(target))
        raise UserError(
            f"config.source={name} gives each example a {' or a '.join(source.targets)}, and this task learns a {target}: "
            f"take another --config.task, or another --config.source: {others}."
        )
    input.check()
    return source.open(input, target, known)


def with_target(target: str) -> list[str]:
    """The names of the sources that can give a kind of target."""
    return [name for name, source in SOURCES.items() if target in source.targets]

"""What networks are given, by the names that `--config.input=NAME` takes.

A new kind of input is a folder beside this and a line here. Its `options.py` holds a dataclass `Options` with

- `name`, a plain field: the name in this table; then fields for what an experiment may vary;
- `key`, a class attribute: under which batches hold it, `[B, *spatial, C]`;
- `axes`, a class attribute: the names of the axes of an example, the last `channels`;
- `check()`, which raises UserError for fields that do not go together;
- `shaped(example_shape) -> Options`: these options, where other data are to be brought to that shape `(*spatial, C)`;
- `build() -> Input`, an object with

  - `output_shape(example_shape) -> (*spatial, C)`: of an example after augmentation;
  - `describe(example_shape) -> str`: that shape for a person;
  - `statistics(split) -> dict of float32 arrays`: what normalisation needs to know of the training examples;
  - `augment(key, batch, statistics, axis_name=None) -> batch`, traced: random changes and normalisation, in training;
  - `view(x, statistics) -> [B, V, *spatial, C]`, traced: what evaluation sees of inputs as stored, in V views of each;
  - `reader(example_shape, dtype) -> function` of a file's path to an array `[*spatial, C]` as stored, which raises
    `cnnjax.errors.Unreadable`.
"""

from cnnjax import foreign
from cnnjax.errors import UserError
from cnnjax.inputs.images import options as images
from cnnjax.knobs import pick

INPUTS = {"images": images.Options()}


def options(name: str):
    """A fresh copy of the options of the kind of input of a name. Raises UserError for an unknown one."""
    return pick(INPUTS, "input", name)


def name_of(options) -> str:
    """The name of options: that in the table, or of a class of one's own.

    Raises:
      UserError: these are no options of an input.
    """
    return foreign.name_of(
        options, INPUTS, "input", ("key", "axes", "check", "shaped", "build"), "cnnjax/inputs/__init__.py"
    )

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

import copy

from cnnjax import foreign
from cnnjax.errors import UserError
from cnnjax.inputs.images import options as images
from cnnjax.knobs import nearest

INPUTS = {"images": images.Options()}


def options(name: str):
    """A fresh copy of the options of the kind of input of a name. Raises UserError for an unknown one."""
    if name not in INPUTS:
        raise UserError(f"There is no input {name!r}.{nearest(name, INPUTS)} The inputs are {', '.join(INPUTS)}.")
    return copy.deepcopy(INPUTS[name])


def name_of(input_options) -> str:
    """The name of options: that in the table, or of a class of one's own.

    Raises:
      UserError: these are no options of a input.
    """
    for name, known in INPUTS.items():
        if type(known) is type(input_options):
            return name
    return foreign.require(
        input_options, "input", ("key", "axes", "check", "shaped", "build"), INPUTS, "cnnjax/inputs/__init__.py"
    )

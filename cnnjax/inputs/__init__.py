"""What networks are given, by the names that `--config.input=NAME` takes.

A new kind of input is a folder beside this and a line here. Its `options.py` holds a dataclass `Options` with

- `name`, a plain field: the name in this table; then fields for what an experiment may vary;
- `check()`, which raises UserError for fields that do not go together;
- `build() -> Input`, an object with

  - `output_shape(example_shape) -> (*spatial, C)`: of an example after augmentation;
  - `statistics(split)`: what normalisation needs to know of the training examples;
  - `augment(key, batch, statistics, axis_name=None) -> batch`, traced: random changes and normalisation, in training;
  - `view(batch, statistics) -> batch`, traced: what evaluation sees; several views of an example stand on axis 1.
"""

import copy

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
    """The name under which options of this type stand in the table."""
    for name, known in INPUTS.items():
        if type(known) is type(input_options):
            return name
    raise UserError(
        f"config.input must hold the options of a kind of input ({', '.join(INPUTS)}), not {input_options!r}."
    )

"""What networks are trained to do, by the names that `--config.task=NAME` takes.

A new task is a folder beside these and a line here. Its `options.py` holds a dataclass `Options` with

- `name`, a plain field: the name in this table; then fields for what an experiment may vary;
- `target`, a class attribute: the kind of target that its examples have, `label` (a class an example) or `mask` (a class a
  pixel), which a source of examples must be able to give;
- `scores`, a class attribute: its scores by name, each "higher" or "lower", whichever is better. The first is the score that
  the best checkpoint has, where `config.checkpoint.best_metric` names none;
- `written`, a class attribute: the ends of the names of files that its `predict` writes, which are no input of the next;
- `check(config)`, which raises UserError for fields that do not go together;
- `build() -> Task`, an object with the methods below. A method that is traced runs inside compiled code, on batches of arrays.

Data:

- `input_shape(example_shape, config) -> (*spatial, C)`: what a network is given of an example of the data;
- `check_outputs(outputs, class_names, model)`: raises UserError where a network's outputs, given as shapes, do not fit;
- `examples(network, config, train, validation, test)`: the splits as the network meets them (whole, crops, tiles);
- `evaluated(network, config, split)`: any split as evaluation meets it;
- `notes(record)`: lines on what in the options does nothing with these data.

Training and evaluation:

- `loss(outputs, batch) -> (sum, normaliser)`, traced: both are added up over devices, and the loss is their quotient;
- `metrics(outputs, batch, detailed) -> dict of sums`, traced, with `count` (of weights) among them; sums add up over batches,
  devices and processes;
- `scores(sums) -> dict of floats`: the means that the sums stand for, and `shown`, the names of those that are shown while a
  run goes;
- `predictions(outputs) -> array`, traced: what a person wants to know of each example;
- `merge_views(outputs)`, traced: the outputs for several views `[B, V, ...]` of each example, merged into one `[B, ...]`;
- `look(outputs) -> (further sums, examples)`: what only single examples show, from the number of each batch's first example,
  the batch, and the predictions;
- `summary(sums, class_names) -> dict` and `summary_lines(summary) -> list of lines`: the final report;
- `figures(sums, examples, class_names) -> dict of name to matplotlib Figure`.

Prediction:

- `predictor(apply, network, record, config) -> function` of examples as stored, for Python; `apply` maps inputs `[B, ...]` to
  predictions, compiled once for each shape;
- `files_at_once`: how many files are read before the network is applied to them, and `predicted(predictor, examples)`, which
  gives the prediction for each of so many;
- `writer(record, config, folder, flags)`: how the command line saves and prints predictions. `check(paths)` raises UserError
  where not all can be written; `write(path, example, prediction)` saves one and returns what is said of it as a dict of JSON
  values, or a line on why that cannot be; `line(said)` is the same for a person; `close(rows)` comes last, with all that was
  said; `where` says where it is.
"""

from cnnjax import foreign
from cnnjax.errors import UserError
from cnnjax.knobs import pick
from cnnjax.tasks.classification import options as classification
from cnnjax.tasks.segmentation import options as segmentation

TASKS = {"classification": classification.Options(), "segmentation": segmentation.Options()}


def options(name: str):
    """A fresh copy of the options of the task of a name. Raises UserError for an unknown one."""
    return pick(TASKS, "task", name)


def name_of(options) -> str:
    """The name of options: that in the table, or of a class of one's own.

    Raises:
      UserError: these are no options of a task.
    """
    return foreign.name_of(options, TASKS, "task", ("target", "scores", "check", "build"), "cnnjax/tasks/__init__.py")

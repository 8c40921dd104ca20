"""From a run directory to predictions on new examples. Needs nothing but that directory."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import evaluation, experiment, parallel, serialization
from cnnjax.config import Config
from cnnjax.data.source import Dataset, Scenes, Split
from cnnjax.errors import Unreadable, UserError
from cnnjax.experiment import Network
from cnnjax.run_directory import records
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.run_directory.records import DatasetRecord


class Run(NamedTuple):
    """A trained network."""

    config: Config
    record: DatasetRecord
    network: Network
    variables: dict[str, Any]
    step: int


def load(workdir: str | Path, which: str = "tested", options: Iterable[type] = ()) -> Run:
    """The network of a run directory, with the parameters of its 'best' or 'last' checkpoint.

    'tested' are those whose test score the run reports: as its `config.checkpoint.test` says.

    Args:
      options: the classes of options that the run took from an experiment file, whose code does not run unasked.

    Raises:
      UserError: the folder holds no run, or no checkpoint; or one of those classes is not named, or is another now.
    """
    workdir = Path(workdir).expanduser()
    records.require_run(workdir)
    values = records.read_json(workdir / "config.json")
    config = serialization.from_json(values, options, workdir / records.CODE)
    config.checkpoint.best_metric = config.checkpoint.best_metric or next(iter(config.task.scores))
    if changed := serialization.changed_files(values, serialization.to_json(config)):
        copies = workdir / records.CODE
        print(f"cnnjax: changed since the run was trained: {', '.join(changed)}; as it was: {copies}", file=sys.stderr)
    record = records.read_dataset(workdir)
    network = experiment.build_network(config, record)
    ranked = dict(best_metric=config.checkpoint.best_metric, higher_is_better=experiment.higher_is_better(config))
    with Checkpoints(workdir, **ranked, read_only=True, log=partial(print, file=sys.stderr)) as checkpoints:
        step = checkpoints.chosen(config.checkpoint.test if which == "tested" else which)
        if step is None:
            raise UserError(f"{workdir} has no checkpoint yet: let `python run.py train` go on in it.")
        variables = evaluation.evaluated_variables(checkpoints.restore_model(step))
    return Run(config, record, network, variables, step)


def predictor(run: Run, kernels: str = "auto", **options) -> Callable[[np.ndarray], Any]:
    """What a run says of new examples, as a function of arrays as stored (uint8: 0..255), compiled once for each shape.

    Of a run that classifies: images `[N, H, W, C]` -> probabilities `[N, K]`. Of one that segments: an image `[H, W, C]`
    of any size -> rows of probabilities (top, `[rows, W, K]`), in order; `blend=True` averages overlapping tiles.

    Args:
      kernels: as `config.kernels`.

    Raises:
      UserError: the network cannot be applied in parts; the function itself, for an array of a shape it does not take.
    """

    def outputs(variables, x):
        with jax.default_matmul_precision(run.config.matmul_precision):
            return run.network.task.predictions(evaluation.outputs_of(run.network, variables, x))

    compiled = parallel.compile_eval_step(parallel.layout(devices=1, kernels=kernels), outputs)
    apply = partial(compiled, jax.device_put(run.variables))
    return run.network.task.predictor(apply, run.network, run.record, run.config, **options)


def predict_files(
    run: Run, paths: Sequence[Path], kernels: str = "auto"
) -> Iterator[tuple[Path, np.ndarray | None, Any | str]]:
    """For each file, in order: (path, example as read, prediction), or (path, None, one line on why it cannot be read).

    Raises:
      UserError: the run was not trained on what files hold.
    """
    read = run.config.input.build().reader(run.record.image_shape, run.record.dtype)
    predict, task = predictor(run, kernels), run.network.task
    for start in range(0, len(paths), task.files_at_once):
        block, examples = paths[start : start + task.files_at_once], []
        for path in block:
            try:
                examples.append(read(path))
            except Unreadable as error:
                examples.append(str(error))
        predictions = iter(task.predicted(predict, [example for example in examples if not isinstance(example, str)]))
        for path, example in zip(block, examples):
            yield (path, None, example) if isinstance(example, str) else (path, example, next(predictions))


def write_predictions(
    run: Run, paths: Sequence[Path], writer, kernels: str = "auto"
) -> Iterator[tuple[Path, dict | str]]:
    """Hands the prediction for each image file to a task's writer; yields what that says of it, or why it cannot, in order.

    What was done is there, whatever ends it.

    Raises:
      UserError: the run was not trained on what image files hold, or the writer cannot write all.
      RunError: the writer could not write.
    """
    writer.check(paths)
    rows: list[dict] = []
    try:
        for path, image, prediction in predict_files(run, paths, kernels):
            said = prediction if image is None else writer.write(path, image, prediction)
            if isinstance(said, dict):
                rows.append(dict(file=str(path)) | said)
            yield path, said
    finally:
        writer.close(rows)


def dataset_for(run: Run, config: Config) -> Dataset:
    """The data set of a configuration, brought to the shape that a run was trained on; its labels must mean the same classes.

    Masks are read as the run's were, where nothing else is said of them.

    Raises:
      UserError: other classes, or another kind of pixels.
    """
    config = dataclasses.replace(config, input=config.input.shaped(run.record.image_shape))
    masks = lambda source: [getattr(source, name, None) for name in ("mask_kind", "legend", "ignore")]
    same = masks(config.source) == masks(run.config.source)
    dataset = experiment.open_data(config, run.record if same else None)
    if dataset.class_names != run.record.class_names:
        raise UserError(
            f"{dataset.name} has other classes than the run: {_few(dataset.class_names)} instead of {_few(run.record.class_names)}."
        )
    if dataset.image_shape != run.record.image_shape:
        raise UserError(
            f"{dataset.name} has images {dataset.image_shape}, the run was trained on {run.record.image_shape}."
        )
    return dataset


def split_for(run: Run, dataset: Dataset, config: Config, name: str) -> Split:
    """The split of a name as the run had it (train is without what was cut off for validation), or of a tfds spec."""
    split = experiment.placed(_split_for(run, dataset, config, name), dataset, config)
    return config.task.build().evaluated(run.network, config, split)


def _split_for(run: Run, dataset: Dataset, config: Config, name: str) -> Split | Scenes:
    if name == "test":
        return dataset.split(config.data.test or name)
    if name not in ("train", "validation") or dataset.name != run.record.name:
        return dataset.split(name)
    train, validation, _ = experiment.splits(dataset, config)
    split = train if name == "train" else validation
    if split is None:
        raise UserError("This run has no validation split.")
    return split


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")

"""From a configuration to the objects that it names: the one place where names become things.

Training, evaluation and prediction all start here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import knobs, models, optimizers, parallel, processes
from cnnjax.config import Config
from cnnjax.data import pipeline, sources
from cnnjax.data.order import validation_cut
from cnnjax.data.source import Dataset, Scenes, Split, subset
from cnnjax.errors import UserError, first_line
from cnnjax.run_directory.records import DatasetRecord, record_of
from cnnjax.serialization import CHOICES, DEFAULTS, foreign_classes

LONGEST = 2**31 - 1  # steps: they are counted in 32 bits


class Network(NamedTuple):
    """A model with what it needs to know of its data: enough to evaluate and predict."""

    model: nn.Module
    task: Any  # see cnnjax/tasks
    view: (
        Callable  # examples [B, *spatial, C] as stored -> [B, V, *spatial, C]: what evaluation sees of each, normalised
    )
    input_shape: tuple[int, ...]  # (*spatial, C)
    key: str  # of a batch: its examples


class Experiment(NamedTuple):
    """Everything a run needs, built and checked, before anything is computed."""

    config: Config
    record: DatasetRecord
    fingerprints: tuple[str, ...]  # of the data: what a run on the same data may have recorded
    network: Network
    train: Split
    validation: Split | None
    test: Split | None
    layout: parallel.Layout
    augment: Callable  # (key, batch, axis_name=None) -> batch, normalised
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps_per_epoch: float
    total_steps: int
    notes: tuple[str, ...]  # what a person should know of the data


def check(config: Config) -> None:
    """Holds every knob against its type and range, and the knobs against each other. Touches no device and no data.

    A `checkpoint.best_metric` that was left empty becomes the first of the task's scores.

    Raises:
      UserError: naming the knob.
    """
    check_fields(config)
    if config.batch_size % config.accumulate:
        raise UserError(
            f"config.batch_size={config.batch_size} is not divisible by config.accumulate={config.accumulate}."
        )
    _ask(config, "input", config.input.check)
    if config.compile_with == "pmap":
        for knob, on in (("fsdp", config.fsdp != 1), ("deterministic", config.deterministic)):
            if on:
                raise UserError(f"config.compile_with=pmap cannot do config.{knob}: take config.compile_with=jit.")
    scores = config.task.scores
    config.checkpoint.best_metric = best = config.checkpoint.best_metric or next(iter(scores))
    if best not in scores:
        raise UserError(
            f"config.checkpoint.best_metric={best} is no score of {config.task.name}: take {' or '.join(scores)}."
        )
    _ask(config, "task", lambda: config.task.check(config))


def _ask(config: Config, choice: str, check: Callable[[], None]) -> None:
    """Calls the check of options. One of a class of one's own may fail in any way: it is said in a line, too."""
    try:
        check()
    except Exception as error:
        kind = foreign_classes(config).get(choice)
        if kind is None or isinstance(error, UserError):
            raise
        raise UserError(f"config.{choice}: {kind.__qualname__}.check failed: {first_line(error)}.") from error


def check_fields(config: Config) -> None:
    """Holds every knob against its type and range, each by itself. Choices that were not made are those of DEFAULTS.

    Raises:
      UserError: naming the knob.
    """
    for choice, table in CHOICES.items():
        if getattr(config, choice) is None and choice in DEFAULTS:
            setattr(config, choice, table.options(DEFAULTS[choice]))
        table.name_of(getattr(config, choice))
    knobs.check(config)


def higher_is_better(config: Config) -> bool:
    """Of the score that the best checkpoint has."""
    return config.task.scores[config.checkpoint.best_metric] == "higher"


def build(config: Config, known: DatasetRecord | None = None) -> Experiment:
    """Opens the data, reads what fits into memory, and builds the network, optimizer and layout.

    Args:
      known: what a run that goes on remembers of its data. Of the same data its statistics are taken as they are: they
        need not be computed again, and have the same bits on a machine whose libraries sum in another order.

    Raises:
      UserError: a knob that does not fit its range, the data, the network or the devices.
    """
    check(config)
    layout = parallel.layout(config.devices, config.fsdp, config.compile_with, config.deterministic, config.kernels)
    parallel.check_divisible(layout, config.batch_size, "batch_size", config.accumulate)
    parallel.check_divisible(
        layout, eval_batch_size(config), "eval_batch_size" if config.eval_batch_size else "batch_size"
    )
    dataset = open_data(config)
    processes.require_same(f"data ({dataset.name})", dataset.fingerprint)
    train, validation, test = (split and placed(split, dataset, config) for split in splits(dataset, config))
    sizes = {name: split.size for name, split in dict(train=train, validation=validation, test=test).items() if split}
    fingerprints = (dataset.fingerprint, *dataset.former_fingerprints)
    same_data = known and known.fingerprint in fingerprints and known.split_sizes == sizes
    same_data = same_data and known.image_shape == tuple(dataset.image_shape)
    record = record_of(dataset, known.statistics if same_data else _statistics(config, train), sizes)
    network = build_network(config, record)
    train, validation, test = network.task.examples(network, config, train, validation, test)
    steps_per_epoch = train.size / config.batch_size
    total_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    if total_steps > LONGEST:
        raise UserError(
            f"A run of {total_steps:,} steps is too long: at most {LONGEST:,}. Lower config.epochs or config.steps."
        )
    schedule = optimizers.schedule(config.schedule, config.optimizer.learning_rate, total_steps, steps_per_epoch)
    if validation is None:
        for knob, on in [
            ("early_stopping", config.early_stopping),
            ("schedule.name=plateau", config.schedule.name == "plateau"),
        ]:
            if on:
                raise UserError(f"config.{knob} needs a validation split: set --config.data.validation_fraction.")
    shapes = jax.eval_shape(lambda: initial_variables(network, 0))
    return Experiment(
        config=config,
        record=record,
        fingerprints=fingerprints,
        network=network,
        train=train,
        validation=validation,
        test=test,
        layout=layout,
        augment=functools.partial(_augment, config.input.build(), record.statistics),
        optimizer=optimizers.optimizer(config.optimizer, schedule, shapes["params"]),
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        notes=dataset.notes + network.task.notes(record),
    )


def open_data(config: Config, known: DatasetRecord | None = None) -> Dataset:
    """The data set of a configuration, with the targets that its task learns. `known`: of a trained network, whose classes
    the data are to have."""
    code = known.mask_code if known else None
    return sources.open_dataset(config.source, config.input, config.task.target, code)


def _statistics(config: Config, train: Split | Scenes) -> dict[str, np.ndarray]:
    """Of the training examples, as process 0 finds them: on another machine the last bits may differ."""
    kind = config.input.build()
    found = processes.by_main(lambda: {name: value.tolist() for name, value in kind.statistics(train).items()})
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def eval_batch_size(config: Config) -> int:
    return config.eval_batch_size or config.batch_size


def build_network(config: Config, record: DatasetRecord) -> Network:
    """The model for a data set. Raises UserError where the model cannot take its pictures."""
    axes = config.input.axes
    if len(record.image_shape) != len(axes):
        raise UserError(f"dataset.json is damaged: its image_shape is {record.image_shape}, not {', '.join(axes)}.")
    task = config.task.build()
    model = config.model.build(len(record.class_names), jnp.dtype(config.dtype), config.remat)
    view = functools.partial(config.input.build().view, statistics=record.statistics)
    network = Network(model, task, view, task.input_shape(record.image_shape, config), config.input.key)
    variables = jax.eval_shape(lambda: initial_variables(network, 0))
    outputs = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, *network.input_shape)), train=False), variables)
    task.check_outputs(outputs, record.class_names, models.name_of(config.model))
    return network


def initial_variables(network: Network, seed: int) -> dict[str, Any]:
    """Fresh `params` (and `batch_stats`): a function of the seed alone."""
    images = jnp.zeros((1, *network.input_shape))
    return dict(network.model.init(jax.random.fold_in(jax.random.key(seed), 0), images, train=False))


def splits(dataset: Dataset, config: Config) -> tuple[Split, Split | None, Split | None]:
    """Train, validation and test, as the configuration and the data set have them; validation is cut from train."""
    data = config.data
    train = dataset.split(data.train)
    if data.validation:
        validation = dataset.split(data.validation)
    elif "validation" in dataset.split_sizes:
        validation = dataset.split("validation")
    elif data.validation_fraction and train.size > 1:
        kept, cut = validation_cut(train.size, data.validation_fraction)
        train, validation = subset(train, kept), subset(train, cut)
    else:
        validation = None
    test = dataset.split(data.test) if data.test else None
    for name, split in dict(train=train, validation=validation, test=test).items():
        if split is not None and split.size == 0:
            raise UserError(f"config.data.{name} selects no example of {dataset.name}.")
    return train, validation, test


def placed(split: Split | Scenes, dataset: Dataset, config: Config) -> Split | Scenes:
    """A split in memory, or as it is where it is to be streamed."""
    placement, size = config.data.placement, pipeline.megabytes(split, dataset.image_shape, dataset.dtype)
    if placement == "stream" or (placement == "auto" and size > config.data.memory_limit_mb):
        return split
    return pipeline.in_memory(split)


def _augment(kind, statistics, key: jax.Array, batch: dict, axis_name: str | None = None) -> dict:
    return kind.augment(key, batch, statistics, axis_name)


def steps_between(time: float, steps_per_unit: float) -> int:
    """A time, in epochs say, as a whole number of steps, at least one."""
    return max(1, math.floor(time * steps_per_unit + 0.5))

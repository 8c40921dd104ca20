"""From a configuration to the objects that it names: the one place where names become things.

Training, evaluation and prediction all start here.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import knobs, migration, models, optimizers, parallel, processes, tasks
from cnnjax.config import Config
from cnnjax.data import augmentation, open_dataset, pipeline
from cnnjax.data.order import validation_cut
from cnnjax.data.source import Dataset, Scenes, Split, Statistics, subset
from cnnjax.errors import UserError
from cnnjax.run_directory.records import DatasetRecord, record_of

DEFAULT_TASK = "classification"
LONGEST = 2**31 - 1  # steps: they are counted in 32 bits


class Network(NamedTuple):
    """A model with what it needs to know of its data: enough to evaluate and predict."""

    model: nn.Module
    task: Any  # see cnnjax/tasks
    view: Callable  # batch -> batch: what evaluation sees of a picture, normalised; several views stand on axis 1
    input_shape: tuple[int, int, int]


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
    crops = [n for n in ("random_crop", "random_resized_crop") if getattr(config.augmentation, n)]
    if len(crops) > 1:
        raise UserError(
            "config.augmentation.random_crop and random_resized_crop exclude each other: set one of them to 0."
        )
    if config.augmentation.views == "ten_crop" and not config.augmentation.random_crop:
        raise UserError("config.augmentation.views=ten_crop takes crops as large as random_crop: set that too.")
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
    config.task.check(config)
    if config.data.channels == 2:
        raise UserError("config.data.channels must be 0 (as stored), 1 or 3, not 2.")


def check_fields(config: Config) -> None:
    """Holds every knob against its type and range, each by itself; a configuration without a task classifies.

    Raises:
      UserError: naming the knob.
    """
    models.name_of(config.model)
    if config.task is None:
        config.task = tasks.options(DEFAULT_TASK)
    tasks.name_of(config.task)
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
    dataset = open_dataset(config.data, config.task.target)
    processes.require_same(f"data ({dataset.name})", dataset.fingerprint)
    train, validation, test = (split and placed(split, dataset, config) for split in splits(dataset, config))
    sizes = {name: split.size for name, split in dict(train=train, validation=validation, test=test).items() if split}
    fingerprints = (dataset.fingerprint, *dataset.former_fingerprints)
    same_data = known and known.fingerprint in fingerprints and known.split_sizes == sizes
    same_data = same_data and known.image_shape == tuple(dataset.image_shape)
    record = record_of(dataset, known.statistics if same_data else _statistics(train), sizes)
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
        augment=_augment(config, record.statistics),
        optimizer=optimizers.optimizer(config.optimizer, schedule, shapes["params"]),
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        notes=dataset.notes + network.task.notes(record),
    )


def _statistics(train: Split | Scenes) -> Statistics:
    """Of the training pictures, as process 0 finds them: on another machine the last bits may differ."""
    found = processes.by_main(lambda: [value.tolist() for value in pipeline.statistics(train)])
    return Statistics(*(np.asarray(value, np.float32) for value in found))


def eval_batch_size(config: Config) -> int:
    return config.eval_batch_size or config.batch_size


def build_network(config: Config, record: DatasetRecord) -> Network:
    """The model for a data set. Raises UserError where the model cannot take its pictures."""
    task = config.task.build()
    model = config.model.build(len(record.class_names), jnp.dtype(config.dtype), config.remat)
    network = Network(model, task, _view(config, record.statistics), task.input_shape(record.image_shape, config))
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


def normalize(image: jax.Array, statistics: Statistics, how: str) -> jax.Array:
    """`[..., H, W, C]` in [0, 1] -> centred and scaled per channel.

    By the statistics ('dataset'), to [-1, 1] ('unit'), to 0..255 less the mean ('mean', the scale that AlexNet's and
    VGG's learning rates assume), or not at all ('none').
    """
    if how == "none":
        return image
    half = np.full(1, 0.5, np.float32)
    mean, std = dict(
        dataset=(statistics.mean, statistics.std),
        unit=(half, half),
        mean=(statistics.mean, np.full(1, 1 / 255, np.float32)),
    )[how]
    shape = (1,) * (image.ndim - 1) + (-1,)
    return (image - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)


def _augment(config: Config, statistics: Statistics) -> Callable:
    def augment(key: jax.Array, batch: dict, axis_name: str | None = None) -> dict:
        batch = augmentation.augment(key, batch, config.augmentation, statistics, axis_name)
        return batch | dict(image=normalize(batch["image"], statistics, config.data.normalization))

    return augment


def _view(config: Config, statistics: Statistics) -> Callable:
    def view(batch: dict) -> dict:
        image = augmentation.evaluation_view(batch["image"], config.augmentation)
        return batch | dict(image=normalize(image, statistics, config.data.normalization))

    return view


def to_json(config: Config) -> dict[str, Any]:
    """All knobs as JSON values; the model's stand beside its name."""
    values = knobs.to_dict(dataclasses.replace(config, task=config.task or tasks.options(DEFAULT_TASK)))
    values["model"] = dict(name=models.name_of(config.model)) | values["model"]
    return dict(format=migration.FORMAT) | values


def from_json(values: dict[str, Any]) -> Config:
    """The configuration that `to_json` wrote, of this version or an earlier one.

    Raises:
      UserError: it is damaged, or of a later version, or has knobs that this version does not know.
    """
    values = migration.current(values)
    for choice in ("model", "task"):
        if not isinstance(values.get(choice), dict) or not isinstance(values[choice].get("name"), str):
            raise UserError(f"config.json is damaged: it names no {choice}.")
    config = new_config(values["model"]["name"], values["task"]["name"])
    for choice in ("model", "task"):
        knobs.update(getattr(config, choice), {n: v for n, v in values[choice].items() if n != "name"})
    knobs.update(config, {n: v for n, v in values.items() if n not in ("model", "task", "format")})
    return config


def new_config(model: str = "cnn", task: str = DEFAULT_TASK) -> Config:
    """A configuration with fresh options of a model and a task, by their names. Raises UserError for unknown ones."""
    return Config(model=models.options(model), task=tasks.options(task))


def steps_between(time: float, steps_per_unit: float) -> int:
    """A time, in epochs say, as a whole number of steps, at least one."""
    return max(1, math.floor(time * steps_per_unit + 0.5))


def differences(old: dict[str, Any], new: dict[str, Any], kind: str) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every knob of a kind that differs, from what `to_json` wrote.

    The kind is `knobs.IDENTITY`, which changes the numbers of a run, or `knobs.MACHINE`.
    """
    first, second = from_json(old), from_json(new)
    before, after = ({k.name: k for k in knobs.walk(config)} for config in (first, second))
    pairs = [(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())]
    for choice in ("model", "task"):
        names = before_name, after_name = getattr(first, choice).name, getattr(second, choice).name
        if before_name != after_name:
            return [(choice, *names)] if kind == knobs.IDENTITY else []
    return [(n, a.value, b.value) for n, a, b in pairs if a.kind == kind and a.value != b.value]

"""From a configuration to the objects that it names: the one place where names become things.

Training, evaluation and prediction all start here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import knobs, models, optimizers, parallel, processes, scenes
from cnnjax.config import Config
from cnnjax.data import augmentation, open_dataset, open_scenes, pipeline
from cnnjax.data.order import validation_cut
from cnnjax.data.source import Dataset, Scenes, Split, Statistics, subset
from cnnjax.errors import UserError
from cnnjax.run_directory.records import DatasetRecord, record_of
from cnnjax.tasks import classification, segmentation

LONGEST = 2**31 - 1  # steps: they are counted in 32 bits


class Network(NamedTuple):
    """A model with what it needs to know of its data: enough to evaluate and predict."""

    model: nn.Module
    task: Any  # functions: see cnnjax/tasks
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

    Raises:
      UserError: naming the knob.
    """
    models.name_of(config.model)
    knobs.check(config)
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
    if config.task == "segmentation":
        _check_segmentation(config)
    elif config.checkpoint.best_metric not in classification.METRICS:
        best = config.checkpoint.best_metric
        raise UserError(f"config.checkpoint.best_metric={best} is of segmentation: take accuracy or loss.")
    if config.data.channels == 2:
        raise UserError("config.data.channels must be 0 (as stored), 1 or 3, not 2.")


def _check_segmentation(config: Config) -> None:
    """What segmentation cannot do."""
    augmentation.check_for_masks(config.augmentation)
    if config.data.placement == "device":
        raise UserError(
            "config.data.placement=device holds pictures of one size, not crops: take auto, host or stream."
        )
    if config.data.image_size:
        raise UserError(
            "config.data.image_size must be 0 for segmentation: pictures and masks are taken as they are, and "
            "config.segmentation.crop says how large the parts are that a network is trained on."
        )
    options = config.segmentation
    if not (options.cross_entropy or options.dice or options.focal):
        raise UserError("config.segmentation.cross_entropy, dice and focal are all 0: there is no loss.")
    if options.class_weights and not any(options.class_weights):
        raise UserError("config.segmentation.class_weights are all 0: give a class a weight, or leave them out.")


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
    segmenting, notes = config.task == "segmentation", ()
    dataset = (open_scenes if segmenting else open_dataset)(config.data)
    processes.require_same(f"data ({dataset.name})", dataset.fingerprint)
    train, validation, test = (split and placed(split, dataset, config) for split in splits(dataset, config))
    sizes = {name: split.size for name, split in dict(train=train, validation=validation, test=test).items() if split}
    fingerprints = (dataset.fingerprint, *dataset.former_fingerprints)
    same_data = known and known.fingerprint in fingerprints and known.split_sizes == sizes
    same_data = same_data and known.image_shape == tuple(dataset.image_shape)
    record = record_of(dataset, known.statistics if same_data else _statistics(train), sizes)
    network = build_network(config, record)
    if segmenting:
        train, validation, test = scenes.examples(config, network, train, validation, test)
        if config.segmentation.border_weight and not dataset.has_objects:
            notes = ("config.segmentation.border_weight does nothing here: the masks do not number objects.",)
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
        notes=dataset.notes + notes,
    )


def _statistics(train: Split | Scenes) -> Statistics:
    """Of the training pictures, as process 0 finds them: on another machine the last bits may differ."""
    found = processes.by_main(lambda: [value.tolist() for value in pipeline.statistics(train)])
    return Statistics(*(np.asarray(value, np.float32) for value in found))


def eval_batch_size(config: Config) -> int:
    return config.eval_batch_size or config.batch_size


def build_network(config: Config, record: DatasetRecord) -> Network:
    """The model for a data set. Raises UserError where the model cannot take its pictures."""
    height, width, channels = record.image_shape
    classes, segmenting = len(record.class_names), config.task == "segmentation"
    if segmenting:
        size = (config.segmentation.crop,) * 2
        if config.segmentation.class_weights and len(config.segmentation.class_weights) != classes:
            given = len(config.segmentation.class_weights)
            raise UserError(f"config.segmentation.class_weights are {given}, but there are {classes} classes.")
    else:
        size = augmentation.output_size(height, width, config.augmentation)
    task = segmentation.Task(config.segmentation) if segmenting else classification
    model = config.model.build(classes, jnp.dtype(config.dtype), config.remat)
    network = Network(model, task, _view(config, record.statistics), (*size, channels))
    variables = jax.eval_shape(lambda: initial_variables(network, 0))
    logits = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, *network.input_shape)), train=False), variables)
    if logits.ndim != (4 if segmenting else 2):
        says = "one class of a whole picture" if segmenting else "something of every pixel"
        other = "segment: take unet" if segmenting else "classify pictures, but with --config.task=segmentation"
        raise UserError(f"config.model={models.name_of(config.model)} says {says}: it cannot be trained to {other}.")
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
    values = knobs.to_dict(config)
    values["model"] = dict(name=models.name_of(config.model)) | values["model"]
    return values


def from_json(values: dict[str, Any]) -> Config:
    """The configuration that `to_json` wrote. Raises UserError for knobs that this version does not know."""
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise UserError("config.json is damaged: it names no model.")
    values, model = dict(values), dict(model)
    del values["model"]
    config = Config(model=models.options(model.pop("name")))
    knobs.update(config.model, model)
    knobs.update(config, values)
    return config


def steps_between(time: float, steps_per_unit: float) -> int:
    """A time, in epochs say, as a whole number of steps, at least one."""
    return max(1, math.floor(time * steps_per_unit + 0.5))


def differences(old: dict[str, Any], new: dict[str, Any], kind: str) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every knob of a kind that differs, from what `to_json` wrote.

    The kind is `knobs.IDENTITY`, which changes the numbers of a run, or `knobs.MACHINE`.
    """
    before = {k.name: k for k in knobs.walk(from_json(old))}
    after = {k.name: k for k in knobs.walk(from_json(new))}
    pairs = [(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())]
    if old.get("model", {}).get("name") != new.get("model", {}).get("name"):
        return [("model", old["model"].get("name"), new["model"].get("name"))] if kind == knobs.IDENTITY else []
    return [(n, a.value, b.value) for n, a, b in pairs if a.kind == kind and a.value != b.value]

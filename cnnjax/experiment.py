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

from cnnjax import knobs, models, optimizers, parallel
from cnnjax.config import Config
from cnnjax.data import augmentation, open_dataset, pipeline
from cnnjax.data.order import validation_cut
from cnnjax.data.source import Dataset, Split, Statistics, subset
from cnnjax.errors import UserError
from cnnjax.run_directory.records import DatasetRecord, record_of
from cnnjax.tasks import classification

LONGEST = 2**31 - 1  # steps: they are counted in 32 bits


class Network(NamedTuple):
    """A model with what it needs to know of its data: enough to evaluate and predict."""

    model: nn.Module
    task: Any  # module of functions: see cnnjax/tasks
    view: Callable  # batch -> batch: what evaluation sees of a picture, normalised; several views stand on axis 1
    input_shape: tuple[int, int, int]


class Experiment(NamedTuple):
    """Everything a run needs, built and checked, before anything is computed."""

    config: Config
    record: DatasetRecord
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
    if config.data.channels == 2:
        raise UserError("config.data.channels must be 0 (as stored), 1 or 3, not 2.")


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
    dataset = open_dataset(config.data)
    train, validation, test = (split and _placed(split, dataset, config) for split in splits(dataset, config))
    sizes = {name: split.size for name, split in dict(train=train, validation=validation, test=test).items() if split}
    same_data = known and (known.fingerprint, known.split_sizes) == (dataset.fingerprint, sizes)
    same_data = same_data and known.image_shape == tuple(dataset.image_shape)
    record = record_of(dataset, known.statistics if same_data else pipeline.statistics(train), sizes)
    network = build_network(config, record)
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
        notes=dataset.notes,
    )


def eval_batch_size(config: Config) -> int:
    return config.eval_batch_size or config.batch_size


def build_network(config: Config, record: DatasetRecord) -> Network:
    """The model for a data set. Raises UserError where the model cannot take its pictures."""
    height, width, channels = record.image_shape
    size = augmentation.output_size(height, width, config.augmentation)
    model = config.model.build(len(record.class_names), jnp.dtype(config.dtype), config.remat)
    network = Network(model, classification, _view(config, record.statistics), (*size, channels))
    variables = jax.eval_shape(lambda: initial_variables(network, 0))
    logits = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, *network.input_shape)), train=False), variables)
    if logits.ndim != 2:
        name = models.name_of(config.model)
        raise UserError(
            f"config.model={name} says something of every pixel: it cannot be trained to classify pictures."
        )
    return network


def network_alone(config: Config, shape: str = "", classes: str = "") -> tuple[nn.Module, tuple[int, ...]]:
    """The model of a configuration and the shape `(*spatial, C)` of its input, without weights.

    Args:
      shape: '227,227,3'; empty: as augmentation leaves the data's pictures, and of a model without data as published.
      classes: how many; empty: as the data have it, and of a model without data 1000.

    Raises:
      UserError: either is no such number.
    """
    sizes = tuple(positive(n, "--input", "height,width,channels: --input=224,224,3") for n in shape.split(",") if shape)
    count = positive(classes, "--classes", "a whole number") if classes else 0
    published = config.model.input_shape
    if shape and len(sizes) != len(published):
        name, form = (
            models.name_of(config.model),
            "height,width,channels" if len(published) == 3 else "lengths,channels",
        )
        raise UserError(f"--input={shape} must be {form} for {name}: {','.join(map(str, published))} as published.")
    if not (sizes and count) and config.data.name:
        dataset = open_dataset(config.data)
        height, width, channels = dataset.image_shape
        sizes = sizes or (*augmentation.output_size(height, width, config.augmentation), channels)
        count = count or len(dataset.class_names)
    model = config.model.build(count or 1000, jnp.dtype(config.dtype), False)
    return model, sizes or published


def positive(text: str, flag: str, form: str) -> int:
    """A whole number above 0 that was typed. Raises UserError, naming the flag, for anything else."""
    if not (text.isascii() and text.strip().isdigit()) or int(text) == 0:
        raise UserError(f"{flag} must be {form}, not {text!r}.")
    return int(text)


def image_like(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """The shape and type of one example `[1, *spatial, C]`."""
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


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


def _placed(split: Split, dataset: Dataset, config: Config) -> Split:
    """The split in memory, or as it is where it is to be streamed."""
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


def steps_between(epochs: float, steps_per_epoch: float) -> int:
    """A time in epochs as a whole number of steps, at least one."""
    return max(1, math.floor(epochs * steps_per_epoch + 0.5))


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

"""A network, a task, a kind of input and a source that cnnjax does not have: how fast is a wave? In one axis, or in three.

python run.py train --config=tests/own_options/experiment.py:1 --workdir=runs/waves
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from waves import wave  # a file beside this one

from cnnjax.config import Config
from cnnjax.data.source import Dataset, Split, subset
from cnnjax.data.split_spec import indices
from cnnjax.errors import Unreadable, UserError
from cnnjax.knobs import knob

SIDES = {1: (16,), 3: (8, 4, 4)}
SIZES = dict(train=96, test=32)


@dataclasses.dataclass(slots=True)
class Tiny:
    """Two convolutions over all axes, and the mean of what they give."""

    name: str = "tiny"
    axes: int = knob(1, "how many axes an example has, besides its channels", low=1, high=3)
    width: int = knob(8, "channels", low=1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*SIDES[self.axes], 1)

    def build(self, outputs: int, dtype=jnp.float32, remat: bool = False) -> nn.Module:
        return Network(outputs, self.axes, self.width, dtype)


class Network(nn.Module):
    outputs: int
    axes: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for number in range(2):
            x = nn.relu(nn.Conv(self.width, (3,) * self.axes, dtype=self.dtype, name=f"conv{number}")(x))
        x = nn.Dropout(0.1, deterministic=not train)(x.mean(tuple(range(1, 1 + self.axes))))
        return nn.Dense(self.outputs, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


@dataclasses.dataclass(slots=True)
class Signals:
    """Numbers along one axis, or three."""

    name: str = "signals"
    noise: float = knob(0.05, "deviation of noise that is added in training", low=0)

    key: ClassVar[str] = "signal"

    @property
    def axes(self) -> tuple[str, ...]:
        return ("length", "channels") if self.spatial == 1 else ("depth", "height", "width", "channels")

    spatial: int = knob(1, "axes besides the channels", low=1, high=3)

    def check(self) -> None:
        if self.spatial not in SIDES:
            raise UserError(f"config.input.spatial must be 1 or 3, not {self.spatial}.")

    def shaped(self, example_shape):
        return dataclasses.replace(self, spatial=len(example_shape) - 1)

    def build(self):
        return SignalInput(self)


@dataclasses.dataclass(frozen=True)
class SignalInput:
    options: Signals

    def output_shape(self, example_shape):
        return example_shape

    def describe(self, example_shape) -> str:
        return " by ".join(map(str, example_shape))

    def statistics(self, split) -> dict[str, np.ndarray]:
        values = split.read(np.arange(split.size))["signal"] / 255
        return dict(mean=values.mean(dtype=np.float32), std=values.std(dtype=np.float32))

    def augment(self, key, batch, statistics, axis_name=None):
        own = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["position"])
        x = self._normalized(batch["signal"], statistics)
        noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(own)
        return batch | dict(signal=x + self.options.noise * noise)

    def view(self, x, statistics):
        return self._normalized(x, statistics)[:, None]

    def _normalized(self, x, statistics):
        return (x.astype(jnp.float32) / 255 - statistics["mean"]) / statistics["std"]

    def reader(self, example_shape, dtype):
        def read(path) -> np.ndarray:
            try:
                array = np.load(path)
            except (OSError, ValueError):
                raise Unreadable("is no array") from None
            if array.shape != tuple(example_shape):
                raise Unreadable(f"is {array.shape}, not {tuple(example_shape)}")
            return array

        return read


@dataclasses.dataclass(slots=True)
class Waves:
    """Sines of random frequencies."""

    name: str = "waves"
    fastest: float = knob(4.0, "the highest frequency, periods an example", above=0)
    spatial: int = knob(1, "axes besides the channels", low=1, high=3)

    targets: ClassVar[tuple[str, ...]] = ("frequency",)

    def open(self, input, target: str, known=None) -> Dataset:
        frequency = np.random.default_rng(0).uniform(1, self.fastest, sum(SIZES.values())).astype(np.float32)
        whole = Split(len(frequency), Read(frequency, SIDES[self.spatial]))
        return Dataset(
            name="waves:1",
            class_names=("frequency",),
            image_shape=(*SIDES[self.spatial], 1),
            dtype=np.dtype(np.uint8),
            split_sizes=dict(SIZES),
            split=lambda spec: subset(whole, indices(spec, SIZES)),
            fingerprint=hashlib.sha256(frequency.tobytes()).hexdigest(),
        )


@dataclasses.dataclass(frozen=True)
class Read:
    frequency: np.ndarray
    sides: tuple[int, ...]

    def __call__(self, indices):
        chosen = self.frequency[indices]
        return dict(signal=np.stack([wave(f, self.sides) for f in chosen]), frequency=chosen)


@dataclasses.dataclass(slots=True)
class Regression:
    """A number an example; the smaller the error, the better."""

    name: str = "regression"
    delta: float = knob(1.0, "Huber's loss: from where on an error counts in proportion", above=0)

    target: ClassVar[str] = "frequency"
    scores: ClassVar[dict[str, str]] = dict(error="lower", loss="lower")
    written: ClassVar[tuple[str, ...]] = ()

    def check(self, config) -> None:
        if config.source.spatial != config.input.spatial:
            raise UserError("config.source.spatial and config.input.spatial differ.")

    def build(self):
        return RegressionTask(self)


@dataclasses.dataclass(frozen=True)
class RegressionTask:
    options: Regression
    shown: tuple[str, ...] = ("loss", "error")
    files_at_once: int = 8

    def input_shape(self, example_shape, config):
        return config.input.build().output_shape(example_shape)

    def check_outputs(self, outputs, class_names, model) -> None:
        if outputs.ndim != 2:
            raise UserError(f"config.model={model} does not give a number an example.")

    def examples(self, network, config, train, validation, test):
        return train, validation, test

    def evaluated(self, network, config, split):
        return split

    def notes(self, record):
        return ()

    def loss(self, outputs, batch):
        error = jnp.abs(outputs[:, 0] - batch["frequency"])
        huber = jnp.where(
            error < self.options.delta, error**2 / 2, self.options.delta * (error - self.options.delta / 2)
        )
        return (batch["weight"] * huber).sum(), batch["weight"].sum()

    def metrics(self, outputs, batch, detailed=False):
        total, count = self.loss(outputs, batch)
        error = jnp.abs(outputs[:, 0] - batch["frequency"])
        return dict(count=count, loss=total, error=(batch["weight"] * error).sum())

    def scores(self, sums):
        count = max(float(sums["count"]), 1.0)
        return dict(loss=float(sums["loss"]) / count, error=float(sums["error"]) / count)

    def predictions(self, outputs):
        return outputs[:, 0]

    def merge_views(self, outputs):
        return outputs.mean(1)

    def look(self, outputs):
        worst = 0.0
        for _, batch, predictions in outputs:
            error = np.abs(predictions - batch["frequency"]) * batch["weight"]
            worst = max(worst, float(error.max()))
        return dict(worst=worst), []

    def summary(self, sums, class_names):
        return self.scores(sums) | dict(examples=int(sums["count"]), worst=float(sums["worst"]))

    def summary_lines(self, summary):
        return [f"error {summary['error']:.3f}, at worst {summary['worst']:.3f}, {summary['examples']} examples"]

    def figures(self, sums, examples, class_names):
        return {}

    def predictor(self, apply, network, record, config):
        return lambda examples: np.asarray(apply(np.asarray(examples)))

    def predicted(self, predictor, examples):
        return predictor(np.stack(examples)) if examples else ()

    def writer(self, record, config, folder, flags):
        return Writer()


class Writer:
    where = ""

    def check(self, paths) -> None:
        pass

    def write(self, path, example, prediction) -> dict:
        return dict(frequency=round(float(prediction), 6))

    def line(self, said) -> str:
        return f"{said['frequency']:.3f}"

    def close(self, rows) -> None:
        pass


def get_config(axes: str = "1") -> Config:
    axes = int(axes)
    config = Config(Tiny(axes=axes), Regression(), Signals(spatial=axes), Waves(spatial=axes))
    config.batch_size, config.steps, config.log_every, config.evaluate_every = 16, 60, 6, 3.0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 0.02
    config.schedule.name, config.devices, config.kernels = "constant", 1, "xla"
    return config

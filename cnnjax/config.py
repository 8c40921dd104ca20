"""Every knob that all runs have: its type, unit, range and default. One page to read.

Knobs of kind MACHINE say where and how a run is carried out; they may change when a run is resumed. All others are its
identity. What only one model, task, kind of input or source of examples needs stands in its own options, which `Config`
holds beside these.
"""

import dataclasses
from typing import Any

from cnnjax.knobs import MACHINE, knob

section = dataclasses.dataclass(slots=True)  # slots: a misspelt assignment in an experiment file is an error


@section
class Data:
    """Which examples a run learns from and is scored on, and where they are kept, whatever their source."""

    train: str = knob("train", "split to learn from, as tfds writes splits: train, train[:90%]")
    validation: str = knob(
        "", "split for best checkpoint, plateau and tuning; empty: the set's own, else cut from train"
    )
    validation_fraction: float = knob(
        0.1, "part of train cut off where there is no validation split; 0: no validation", low=0, below=1
    )
    test: str = knob("test", "split that is scored once, at the end; empty: none")
    placement: str = knob(
        "auto",
        "where examples live: train on the device, all in host memory, or streamed from disk",
        choices=("auto", "device", "host", "stream"),
        kind=MACHINE,
    )
    memory_limit_mb: int = knob(
        4096, "MB: splits that decode to more are streamed (placement=auto)", low=0, kind=MACHINE
    )
    workers: int = knob(
        0, "Grain processes that read a streamed split; 0: threads of this process", low=0, kind=MACHINE
    )


@section
class Optimizer:
    """How a gradient becomes an update. The learning rate belongs to the whole batch, as written here."""

    name: str = knob("sgd", "update rule", choices=("sgd", "adamw", "lamb", "lars", "muon"))
    learning_rate: float = knob(0.1, "peak learning rate", low=0)
    momentum: float = knob(0.9, "momentum of sgd, lars and muon", low=0, below=1)
    nesterov: bool = knob(True, "Nesterov's form of momentum (sgd, lars, muon)")
    beta1: float = knob(
        0.9, "decay of the mean of gradients (adamw, lamb, and what muon leaves to adamw)", low=0, below=1
    )
    beta2: float = knob(0.999, "decay of the mean of squared gradients (likewise)", low=0, below=1)
    epsilon: float = knob(1e-8, "added to the root of the mean square (likewise)", above=0)
    weight_decay: float = knob(0.0, "pull towards zero: added to the gradient (sgd, lars), else decoupled", low=0)
    decay_all: bool = knob(False, "decay biases and normalisation parameters too, not kernels alone")
    clip_norm: float = knob(0.0, "largest global norm of the gradient; 0: no clipping", low=0)
    frozen: tuple[str, ...] = knob(
        (), "parameters that stay as they are: glob patterns on their paths, such as stage1/*"
    )


@section
class Schedule:
    """How the learning rate changes over a run."""

    name: str = knob("cosine", "form after the warm-up", choices=("constant", "step", "cosine", "one_cycle", "plateau"))
    unit: str = knob("epochs", "unit of warmup and boundaries", choices=("epochs", "steps"))
    warmup: float = knob(0.0, "linear rise from 0 over this long (one_cycle: 0 means 30 % of the run)", low=0)
    boundaries: tuple[float, ...] = knob((), "step: when to multiply by factor", low=0)
    factor: float = knob(0.1, "step and plateau: what to multiply by", above=0, below=1)
    final: float = knob(0.0, "cosine and one_cycle: the last learning rate, as a fraction of the peak", low=0, high=1)
    patience: int = knob(5, "plateau: evaluations without a better validation score before the rate falls", low=1)


@section
class Checkpoint:
    """What is kept of a run."""

    every_minutes: float = knob(
        10.0,
        "save after so many minutes, when next the log is written, and at the end; 0: after every evaluation",
        low=0,
        kind=MACHINE,
    )
    keep: int = knob(2, "how many of the newest checkpoints stay", low=1, kind=MACHINE)
    best_metric: str = knob("", "validation score that the best checkpoint has; empty: the first of the task's scores")
    test: str = knob("best", "which checkpoint the test split is scored with at the end", choices=("best", "last"))


@section
class Config:
    """A whole run. `model`, `task`, `input` and `source` hold options dataclasses, chosen by name from the tables in
    `cnnjax/models`, `cnnjax/tasks`, `cnnjax/inputs` and `cnnjax/data/sources`.

    `cnnjax.serialization.new_config` makes one by these names.
    """

    model: Any = None
    task: Any = None
    input: Any = None
    source: Any = None
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    seed: int = knob(
        0, "of the first parameters, the order of the data, augmentation and dropout", low=0, high=2**31 - 1
    )
    batch_size: int = knob(128, "pictures in a step, over all devices", low=1)
    accumulate: int = knob(
        1,
        "parts that a batch is worked off in, one after another, to save memory; on several devices jit adds up gradients once a part, pmap once a step",
        low=1,
    )
    epochs: float = knob(10.0, "length of the run in passes over train", above=0, kind=MACHINE)
    steps: int = knob(0, "length of the run in steps; 0: as epochs says", low=0, high=2**31 - 1, kind=MACHINE)
    evaluate_every: float = knob(1.0, "how long between evaluations of validation", above=0)
    evaluate_unit: str = knob("epochs", "unit of evaluate_every", choices=("epochs", "steps"))
    early_stopping: int = knob(0, "stop after this many evaluations without a better validation score; 0: never", low=0)
    ema_decay: float = knob(0.0, "decay of the moving average of parameters that is evaluated; 0: none", low=0, below=1)
    dtype: str = knob(
        "float32", "of activations and gradients; parameters are float32", choices=("float32", "bfloat16")
    )
    matmul_precision: str = knob(
        "default",
        "of products and convolutions on a device that offers several",
        choices=("default", "high", "highest"),
    )
    remat: bool = knob(False, "recompute activations in the backward pass, to save memory")
    init_from: str = knob(
        "", "run directory whose best parameters to start from; a head of another size starts fresh", path=True
    )
    devices: int = knob(0, "how many devices to use; 0: all", low=0, kind=MACHINE)
    fsdp: int = knob(
        1,
        "devices that share one copy of parameters and optimizer state; 1: each has its own, 0: all share one",
        low=0,
        kind=MACHINE,
    )
    compile_with: str = knob(
        "jit", "how steps are spread over devices; pmap: data parallel only", choices=("jit", "pmap"), kind=MACHINE
    )
    kernels: str = knob(
        "auto",
        "what computes convolutions, products, pooling: XLA, oneDNN (one CPU device, Linux on x86-64), or forms in JAX that suit "
        "a CPU (portable) or a GPU",
        choices=("auto", "xla", "onednn", "portable", "gpu"),
        kind=MACHINE,
    )
    deterministic: bool = knob(
        False, "on a GPU too, the same bits in every run (slower); on a CPU they are anyway", kind=MACHINE
    )
    eval_batch_size: int = knob(0, "pictures in a step of evaluation; 0: as batch_size", low=0, kind=MACHINE)
    log_every: int = knob(20, "steps between two entries of the log", low=1, kind=MACHINE)

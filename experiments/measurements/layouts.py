"""Trains the same steps on every layout of devices, and says how far they are apart, what each device holds, what it moves.

python experiments/measurements/layouts.py --table=experiments/results/layouts.csv

Twenty steps on the digits, on 8 virtual devices of the CPU, against one device alone: BatchNorm, weight decay, momentum,
gradient accumulation and a moving average; and again with dropout, mixup and cutmix, whose randomness `pmap` draws per
device. Bytes are counted in the compiled step without accumulation, as results of its collectives on one device.
"""

import os

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import csv
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import cnnjax
from cnnjax import device_memory, evaluation, parallel
from cnnjax.data import pipeline
from cnnjax.experiment import Experiment
from cnnjax.training.initial import initial_state
from cnnjax.training.loop import train_step_for

STEPS = 20
LAYOUTS = {
    "jit, 1 device": dict(devices=1),
    "jit, data=8": dict(devices=8),
    "jit, fsdp=8": dict(devices=8, fsdp=8),
    "jit, data=2 x fsdp=4": dict(devices=8, fsdp=4),
    "pmap, data=8": dict(devices=8, compile_with="pmap"),
}
RANDOM = dict(dropout=0.3, mixup=0.4, cutmix=1.0)
BYTES = dict(f64=8, s64=8, u64=8, f32=4, s32=4, u32=4, bf16=2, f16=2, s8=1, u8=1, pred=1)


class Outcome(NamedTuple):
    """Of twenty steps."""

    losses: np.ndarray  # [steps]
    state: dict  # params, batch_stats, ema_params, opt_state as NumPy arrays
    counts: dict  # evaluation sums of the test split
    megabytes: float  # that each device holds of the state


def experiment(layout: dict[str, Any], random: dict[str, float], accumulate: int = 2, **form: str) -> Experiment:
    config = cnnjax.new_config(model="cnn")
    config.model.channels, config.model.blocks = (16, 32), 1
    config.batch_size, config.steps, config.accumulate, config.ema_decay = 64, STEPS, accumulate, 0.9
    config.optimizer.weight_decay, config.optimizer.learning_rate = 1e-3, 0.05
    if random:
        config.model.dropout = random["dropout"]
        config.input.augmentation.mixup, config.input.augmentation.cutmix = random["mixup"], random["cutmix"]
    for section, values in ((config, layout), (config.input, form)):
        for name, value in values.items():
            setattr(section, name, value)
    return cnnjax.build(config)


def train(layout: dict, *, random: dict | None = None, dtype=jnp.float32, steps: int = STEPS, **form: str) -> Outcome:
    """Some steps on a layout, with such randomness and fields of config.input; for float64 call it under jax.enable_x64."""
    exp = experiment(layout, random or {}, **form)
    model = exp.config.model.build(len(exp.record.class_names), dtype)
    exp = exp._replace(network=exp.network._replace(model=model))
    precise = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    state = parallel.place_state(exp.layout, jax.tree.map(precise, initial_state(exp)))
    step = parallel.compile_train_step(exp.layout, train_step_for(exp), state)
    megabytes = device_memory.held_megabytes(state)
    losses = []
    for n in range(steps):
        batch = pipeline.TrainBatch(exp.train, exp.config.seed, exp.config.batch_size)(n)
        state, metrics = step(state, parallel.place_for_training(exp.layout, batch))
        losses.append(float(metrics["loss"]) / float(metrics["count"]))
    eval_step = parallel.compile_eval_step(exp.layout, evaluation.eval_step_of(exp.network))
    variables = evaluation.evaluated_variables(state.model_variables())
    sums = evaluation.evaluate(eval_step, variables, exp.test, exp.layout, exp.config.batch_size)
    whole = state.model_variables() | dict(opt_state=state.opt_state)
    return Outcome(np.array(losses), jax.tree.map(np.asarray, whole), sums, megabytes)


def distance(a: Any, b: Any) -> float:
    """The largest difference between two trees of arrays."""
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)) if x.size)


def same_counts(a: dict, b: dict) -> bool:
    return all((a[name] == b[name]).all() for name in ("count", "correct", "confusion"))


def compiled_step(layout: dict[str, Any], accumulate: int = 1) -> tuple[str, Any, Experiment]:
    """(HLO text of the compiled training step, its state, the experiment)."""
    exp = experiment(layout, random={}, accumulate=accumulate)
    state = parallel.place_state(exp.layout, initial_state(exp))
    step = parallel.compile_train_step(exp.layout, train_step_for(exp), state)
    batch = pipeline.TrainBatch(exp.train, 0, exp.config.batch_size)(0)
    text = step.lower(state, parallel.place_for_training(exp.layout, batch)).compile().as_text()
    return text, state, exp


def collectives(text: str) -> list[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """(operation, [(type, shape) of each result]) of every instruction of a compiled program that talks to other devices."""
    found = []
    operation = r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)(-start)?"
    for results, name, _ in re.findall(rf"= (.*?) {operation}\(", text):
        arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", results))
        found.append((name, [(kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims in arrays]))
    return found


def moved(text: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective."""
    total: dict[str, int] = {}
    for name, arrays in collectives(text):
        total[name] = total.get(name, 0) + sum(math.prod(shape) * BYTES[kind] for kind, shape in arrays)
    return total


def main(_) -> None:
    rows, alone = [], {}
    for name, layout in LAYOUTS.items():
        row = dict(layout=name)
        for random in ({}, RANDOM):
            if random and layout.get("compile_with") == "pmap":
                continue
            outcomes = {"float32": train(layout, random=random)}
            with jax.enable_x64(True):
                outcomes["float64"] = train(layout, random=random, dtype=jnp.float64)
            prefix = "with randomness: " if random else ""
            for precision, outcome in outcomes.items():
                reference = alone.setdefault((prefix, precision), outcome)
                row[f"{prefix}{precision} losses differ by"] = f"{distance(outcome.losses, reference.losses):.1e}"
                row[f"{prefix}{precision} state differs by"] = f"{distance(outcome.state, reference.state):.1e}"
                row[f"{prefix}{precision} test counts"] = (
                    "equal" if same_counts(outcome.counts, reference.counts) else "differ"
                )
            row["MB of state on a device"] = f"{outcomes['float32'].megabytes:.3f}"
        for kind, size in moved(compiled_step(layout)[0]).items():
            row[f"{kind} bytes"] = size
        rows.append(row)
        print(*(f"{key}: {value}" for key, value in row.items()), sep="\n  ", flush=True)
    if flags.FLAGS.table:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with open(flags.FLAGS.table, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    flags.DEFINE_string("table", "", "CSV file to write")
    app.run(main)

"""What the loader costs: two measurements, as ratios within one process, the two sides in turn.

    python experiments/measurements/loader.py experiments/results/loader.csv

1. Steps/s of training on Fashion-MNIST in memory against steps/s on one batch that stays on the device.
2. Examples/s of the streamed path against a plain Grain loader, one example at a time, both with one reading thread.
"""

import csv
import itertools
import statistics
import sys
import time

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from seeds import hardware

import cnnjax
from cnnjax import parallel
from cnnjax.data import pipeline
from cnnjax.data.tfds_folders import find
from cnnjax.experiment import open_data
from cnnjax.launch import load_experiment
from cnnjax.training.initial import initial_state
from cnnjax.training.loop import train_step_for

ROUNDS, STEPS, EXAMPLES = 7, 40, 8192


def resident_against_loaded(config) -> list[float]:
    """Ratios of seconds with the data to seconds on one resident batch, one a round."""
    experiment = cnnjax.build(config)
    layout = experiment.layout
    state = parallel.place_state(layout, initial_state(experiment))
    step = parallel.compile_train_step(layout, train_step_for(experiment), state)
    batch = pipeline.TrainBatch(experiment.train, 0, config.batch_size)
    place = lambda b: parallel.place(layout, b)
    resident = place(batch(0))

    def seconds(state, batches):
        started, metrics = time.monotonic(), None
        for placed in batches:
            before = metrics
            state, metrics = step(state, placed)
            if before is not None:
                jax.device_get(before)
        jax.block_until_ready(metrics)
        return state, time.monotonic() - started

    state, _ = seconds(state, [resident])
    ratios = []
    for number in range(ROUNDS):
        state, alone = seconds(state, itertools.repeat(resident, STEPS))
        with pipeline.batches(batch, number * STEPS, (number + 1) * STEPS) as batches:
            state, loaded = seconds(state, pipeline.ahead(batches, place))
        ratios.append(loaded / alone)
    return ratios


def streamed_against_plain(config) -> tuple[list[float], list[float]]:
    """Examples/s of our streamed batches and of a plain Grain loader, one of each a round."""
    split = open_data(config).split("train")
    source = tfds.builder_from_directory(find(config.source)).as_data_source(split="train")
    flags.FLAGS.mark_as_parsed()
    size, ours, plain = config.batch_size, [], []
    for number in range(ROUNDS):
        batch = pipeline.TrainBatch(split, number, size)
        started = time.monotonic()
        for step in range(EXAMPLES // size):
            batch(step)  # as a Grain worker calls it, without the threads' overlap: the work of one core
        ours.append(EXAMPLES / (time.monotonic() - started))
        loader = grain.MapDataset.source(source).shuffle(number).map(lambda e: (e["image"], e["label"])).batch(size)
        started = time.monotonic()
        for step in range(EXAMPLES // 4 // size):
            loader[step]
        plain.append(EXAMPLES / 4 / (time.monotonic() - started))
    return ours, plain


def main(table: str) -> None:
    config, _ = load_experiment("experiments/fashion_mnist.py")
    ratios = resident_against_loaded(config)
    ours, plain = streamed_against_plain(config)
    gains = [a / b for a, b in zip(ours, plain)]
    rows = [
        ("seconds with data / seconds on one resident batch", ratios),
        ("streamed examples per second, one core", ours),
        ("plain per-example Grain examples per second, one core", plain),
        ("streamed / plain", gains),
    ]
    with open(table, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "median", "lowest", "highest", "rounds", "hardware", "jax", "date", "command"])
        for what, values in rows:
            figures = [f"{f(values):.4g}" for f in (statistics.median, min, max)]
            row = [what, *figures, ROUNDS, hardware(), jax.__version__, time.strftime("%Y-%m-%d"), " ".join(sys.argv)]
            writer.writerow(row)
            print(what, *figures)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    np.seterr(all="raise")
    main(sys.argv[1])

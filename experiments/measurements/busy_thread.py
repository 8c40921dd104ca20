"""What a Python thread that never rests costs a training step, as a data thread that decodes would: idle and busy in turn.

python experiments/measurements/busy_thread.py --table=experiments/results/busy_thread.csv

The busy thread runs Python code alone, at the priority that the data threads of `pipeline.batches` have, and at the usual one.
"""

import csv
import statistics
import sys
import threading
import time
from pathlib import Path

import jax
from absl import app, flags

from cnnjax import benchmark, models, parallel
from cnnjax.data.workers import yields_to_computation

NETWORKS = {"lenet5": 128, "unet16": 8, "resnet20_cifar": 128}
ROUNDS, TURN_SECONDS = 7, 1.5


def burn(stop: threading.Event, polite: bool) -> None:
    if polite:
        yields_to_computation()
    while not stop.is_set():
        sum(range(1000))


def measure(name: str, batch: int, path: str) -> list[dict]:
    options = models.options(name)
    layout = parallel.layout(1, kernels=path)
    model = benchmark.PerPixel(options.build(options.num_classes if hasattr(options, "num_classes") else 10))
    step, state, placed = benchmark.training_of(model, options.input_shape, batch, layout)
    compiled = parallel.compile_train_step(layout, step, state)

    def seconds() -> float:
        nonlocal state
        taken, end = [], time.perf_counter() + TURN_SECONDS
        while len(taken) < 3 or time.perf_counter() < end:
            started = time.perf_counter()
            state, metrics = compiled(state, placed)
            jax.block_until_ready(metrics)
            taken.append(time.perf_counter() - started)
        return statistics.mean(taken)

    def beside(polite: bool | None) -> float:
        if polite is None:
            return seconds()
        stop = threading.Event()
        thread = threading.Thread(target=burn, args=(stop, polite))
        thread.start()
        try:
            return seconds()
        finally:
            stop.set()
            thread.join()

    seconds()
    taken = {None: [], True: [], False: []}
    for number in range(ROUNDS):
        for polite in (None, True, False) if number % 2 == 0 else (False, True, None):
            taken[polite].append(beside(polite))
    lines = []
    for polite, priority in ((True, "lowest, as data threads"), (False, "usual")):
        ratios = [busy / idle for busy, idle in zip(taken[polite], taken[None])]
        line = dict(network=name, batch=batch, kernels=layout.kernels, priority=priority)
        line |= dict(ratio=statistics.median(ratios), least=min(ratios), most=max(ratios))
        line |= dict(idle_ms=statistics.median(taken[None]) * 1e3, rounds=ROUNDS, jax=jax.__version__)
        lines.append({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()})
        print(lines[-1], flush=True)
    return lines


def main(_) -> None:
    table = [
        line
        for name, batch in NETWORKS.items()
        for path in ("onednn", "portable")
        for line in measure(name, batch, path)
    ]
    if flags.FLAGS.table:
        with Path(flags.FLAGS.table).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    flags.DEFINE_string("table", "", "FILE.csv")
    app.run(main, sys.argv)

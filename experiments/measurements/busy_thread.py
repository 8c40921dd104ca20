"""What a Python thread that never rests costs a training step, as a data thread that decodes would: idle and busy in turn.

python experiments/measurements/busy_thread.py --table=experiments/results/busy_thread.csv

The busy thread runs Python code alone, once as the threads that read data for training do, and once as any thread.
"""

import contextlib
import csv
import statistics
import sys
import threading
import time
from pathlib import Path

import jax
from absl import app, flags

from cnnjax import benchmark, parallel
from cnnjax.data.workers import quick_turns, yield_to_computation

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from networks import CPU_ROWS, hardware  # noqa: E402

NETWORKS = ("lenet", "unet16", "mobilenetv2")
ROUNDS, TURN_SECONDS = 7, 1.5


def burn(stop: threading.Event, reads_data: bool) -> None:
    if reads_data:
        yield_to_computation()
    while not stop.is_set():
        sum(range(1000))


def measure(name: str, path: str) -> list[dict]:
    options, side, channels, classes, batch, _ = CPU_ROWS[name]
    layout = parallel.layout(1, kernels=path)
    model = benchmark.PerPixel(options.build(classes))
    step, state, placed = benchmark.training_of(model, (side, side, channels), batch, layout)
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

    def beside(reads_data: bool | None) -> float:
        if reads_data is None:
            return seconds()
        stop = threading.Event()
        thread = threading.Thread(target=burn, args=(stop, reads_data))
        thread.start()
        try:
            with quick_turns() if reads_data else contextlib.nullcontext():
                return seconds()
        finally:
            stop.set()
            thread.join()

    seconds()
    taken = {None: [], True: [], False: []}
    for number in range(ROUNDS):
        for reads_data in (None, True, False) if number % 2 == 0 else (False, True, None):
            taken[reads_data].append(beside(reads_data))
    lines = []
    for reads_data, thread in ((True, "reads data"), (False, "any other")):
        ratios = [busy / idle for busy, idle in zip(taken[reads_data], taken[None])]
        line = dict(network=name, batch=batch, kernels=path, busy_thread=thread)
        line |= dict(ratio=statistics.median(ratios), least=min(ratios), most=max(ratios))
        line |= dict(idle_ms=statistics.median(taken[None]) * 1e3, rounds=ROUNDS, hardware=hardware())
        lines.append({k: round(v, 2) if isinstance(v, float) else v for k, v in line.items()})
        print(lines[-1], flush=True)
    return lines


def main(_) -> None:
    table = [line for name in NETWORKS for path in ("onednn", "portable") for line in measure(name, path)]
    if flags.FLAGS.table:
        with Path(flags.FLAGS.table).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    flags.DEFINE_string("table", "", "FILE.csv")
    app.run(main, sys.argv)

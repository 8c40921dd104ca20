"""What oneDNN adds to a start: loading the library, joining it to XLA, and building the primitives of a training step.

    python experiments/measurements/start_cost.py --table=FILE.csv

Each network in a process of its own, five times; seconds, the median.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "benchmarks")]
ROUNDS = 5


def one(name: str) -> dict:
    """Seconds of each part in this process, whose library is not loaded yet."""
    import jax
    import jax.numpy as jnp
    from networks import CPU_ROWS, hardware

    from cnnjax import benchmark, parallel
    from cnnjax.kernels.onednn import handler, library

    jax.devices()
    spent = dict(load=0.0, join=0.0, primitives=0.0)

    def timed(part, function, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        spent[part] += time.perf_counter() - started
        return result

    timed("load", library.load)
    link = timed("join", handler.bridge)
    key = link.key
    link.key = lambda what, build, *rest: key(what, lambda: timed("primitives", build), *rest)
    options, side, channels, classes, batch, _ = CPU_ROWS[name]
    layout = parallel.layout(1, kernels="onednn")
    model = benchmark.PerPixel(options.build(classes, jnp.dtype("float32")))
    step, state, placed = benchmark.training_of(model, (side, side, channels), batch, layout)
    parallel.compile_train_step(layout, step, state).lower(state, placed)
    return spent | dict(calls=len(link._keys), hardware=hardware())


def main(table: str) -> None:
    from networks import CPU_ROWS

    rows = []
    for name in CPU_ROWS:
        command = [sys.executable, __file__, "--one", name]
        found = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            for _ in range(ROUNDS)
        ]
        seconds = {part: statistics.median(f[part] for f in found) for part in ("load", "join", "primitives")}
        total = [f["load"] + f["join"] + f["primitives"] for f in found]
        row = dict(network=name, kernels=found[0]["calls"]) | {p: f"{s:.3f}" for p, s in seconds.items()}
        row |= dict(in_all=f"{statistics.median(total):.3f}", least=f"{min(total):.3f}", most=f"{max(total):.3f}")
        rows.append(row | dict(rounds=ROUNDS, hardware=found[0]["hardware"]))
        print(rows[-1], flush=True)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", help="FILE.csv")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.one and not asked.table:
        parser.error("--table=FILE.csv is missing")
    print(json.dumps(one(asked.one))) if asked.one else main(asked.table)

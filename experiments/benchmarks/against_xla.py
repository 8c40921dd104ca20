"""Training steps on cnnjax's own kernels against stock XLA, in processes of their own, in turn.

    python experiments/benchmarks/against_xla.py --table=FILE.csv [--rows=lenet,unet16,efficientnet_b0]

A row is one of networks.CPU_ROWS or the name of any model, which is then taken with 16 pictures of 96x96.
Stock XLA is `kernels=xla` with Flax's own max pooling, in a process that gives freed memory back to the system, as
other programs do.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

PATHS, ROUNDS, SECONDS = ("onednn", "portable", "xla"), 5, 4
STOCK = {"MALLOC_ARENA_TEST": "8"}  # its own default; any of MALLOC_* leaves memory to the C library


def one(name: str, path: str, precision: str) -> None:
    """Prints seconds of steps, as JSON."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from networks import cpu_row, hardware

    from cnnjax import benchmark, parallel
    from cnnjax.layers.pooling import MaxPool

    if path == "xla":  # cnnjax pools faster on this path too
        of_flax = lambda pool, x: nn.max_pool(x, pool.window, pool.strides or pool.window, pool.padding)
        MaxPool.__call__ = nn.compact(of_flax)
    options, side, channels, classes, batch, _ = cpu_row(name)
    layout = parallel.layout(1, kernels=path)
    model = benchmark.PerPixel(options.build(classes, jnp.dtype(precision)))
    step, state, placed = benchmark.training_of(model, (side, side, channels), batch, layout)
    compiled = parallel.compile_train_step(layout, step, state)

    def train_once():
        nonlocal state
        state, metrics = compiled(state, placed)
        jax.block_until_ready(metrics)

    print(json.dumps(dict(seconds=benchmark.times(train_once, SECONDS), batch=batch, hardware=hardware())))


def ask(name: str, path: str, precision: str) -> dict:
    command = [sys.executable, __file__, f"--one={name}", f"--kernels={path}", f"--precision={precision}"]
    environment = os.environ | (STOCK if path == "xla" else {})
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", help="FILE.csv")
    parser.add_argument("--rows", default="lenet,unet16,alexnet,resnet18_small", help="networks, with commas")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--kernels", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        return one(asked.one, asked.kernels, asked.precision)
    from networks import cpu_row

    from cnnjax.errors import UserError

    for name in asked.rows.split(","):
        try:
            cpu_row(name)
        except UserError as error:
            parser.error(str(error))
    table = []
    for name in asked.rows.split(","):
        taken = {path: [] for path in PATHS}
        for number in range(asked.rounds):
            for path in PATHS if number % 2 == 0 else PATHS[::-1]:
                answer = ask(name, path, asked.precision)
                taken[path].append(statistics.median(answer["seconds"]))
        for path in PATHS[:-1]:
            ratios = [stock / ours for stock, ours in zip(taken["xla"], taken[path])]
            line = dict(network=name, batch=answer["batch"], precision=asked.precision, kernels=path)
            line |= dict(ratio=statistics.median(ratios), least=min(ratios), most=max(ratios))
            line |= dict(ours_ms=statistics.median(taken[path]) * 1e3, xla_ms=statistics.median(taken["xla"]) * 1e3)
            line |= dict(rounds=asked.rounds, hardware=answer["hardware"])
            table.append({k: round(v, 2) if isinstance(v, float) else v for k, v in line.items()})
            print(table[-1], flush=True)
    if asked.table:
        with open(asked.table, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()

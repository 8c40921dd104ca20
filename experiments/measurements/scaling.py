"""An estimate on paper: how long a training step takes, and how it scales, on many devices. Nothing is run.

python experiments/measurements/scaling.py --model=resnet50 --batch=256 --table=experiments/results/scaling.csv

Work and traffic are counted in the layer table (bfloat16 activations, float32 parameters and gradients), for a batch of
`--batch` pictures on each device (weak scaling). MACs are done three times: forward, and for the two gradients; one MAC is
two FLOPs.
Memory: forward, each convolution, product and pooling reads its input and writes its output; a normalisation reads its input
twice (statistics, then the rest) and writes once; activations and additions are fused. Backward, a convolution reads its
input, twice the output's gradient, and writes the input's; a normalisation reads both twice and writes once.
The longer of arithmetic and memory, at the share of the peak that `EFFICIENCY` says, is the time without communication.
Communication: gradients are added up by reduce-scatter, all-reduce across nodes and all-gather (2 (n - 1) / n of the bytes
each), hidden behind the backward pass (half of the step) as far as that is long enough; statistics of BatchNorm, two small
all-reduces a layer, wait for nothing and hide behind nothing: they cost latency.
"""

import csv
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags

from cnnjax import models
from cnnjax.inspection.layer_table import Table, layer_table

MODEL = flags.DEFINE_string("model", "resnet50", "a network by name")
BATCH = flags.DEFINE_integer("batch", 256, "pictures on each device")
TABLE = flags.DEFINE_string("table", "", "CSV file to write")

# NVIDIA's data sheet of the H100 SXM: dense bfloat16, HBM3, NVLink (one direction), and one 400 Gbit/s port a GPU.
PEAK, MEMORY, NVLINK, NETWORK = 989e12, 3.35e12, 450e9, 50e9
NODE = 8  # devices
EFFICIENCY = 0.4  # assumed, of peak and of memory; of the links 0.8
LINKS = 0.8
LATENCY_NODE, LATENCY_HOP = 15e-6, 5e-6  # assumed, seconds: an all-reduce in a node; each doubling of nodes, both ways
ELEMENT = 2  # bytes of an activation


class Work(NamedTuple):
    """Of a step on one device."""

    flops: float
    bytes: float
    gradient_bytes: float
    small_reductions: int


def work_of(table: Table, batch: int) -> Work:
    moved = 0.0
    norms = [row for row in table.rows if "Norm" in row.type]
    for row in table.rows:
        given, made = math.prod(row.input_shape), math.prod(row.shape)
        if row in norms:
            moved += 3 * made + 5 * made
        elif row.macs or "Pool" in row.type:
            moved += (given + made) + 2 * (given + made)
    return Work(6 * table.macs * batch, moved * ELEMENT * batch, 4 * table.parameters, 2 * len(norms))


def step_seconds(work: Work, devices: int) -> dict[str, float]:
    """The parts of a step's time, and the whole."""
    alone = max(work.flops / PEAK, work.bytes / MEMORY) / EFFICIENCY
    inside, nodes = min(devices, NODE), max(1, devices // NODE)
    ring = lambda bytes, n, speed: 2 * (n - 1) / n * bytes / (speed * LINKS)
    gradients = ring(work.gradient_bytes, inside, NVLINK) + ring(work.gradient_bytes / inside, nodes, NETWORK)
    latency = (LATENCY_NODE if devices > 1 else 0) + 2 * LATENCY_HOP * math.log2(nodes)
    statistics = work.small_reductions * latency
    seen = max(0.0, gradients - alone / 2) + latency
    return dict(alone=alone, gradients=gradients, statistics=statistics, step=alone + seen + statistics)


def main(_) -> None:
    options = models.options(MODEL.value)
    shape = options.input_shape
    module = options.build(1000, jnp.bfloat16, False)
    table = layer_table(module, jax.ShapeDtypeStruct((1, *shape), jnp.float32), train=False)
    work = work_of(table, BATCH.value)
    print(f"{MODEL.value}, {BATCH.value} pictures of {'x'.join(map(str, shape))} a device:")
    print(
        f"  {work.flops / 1e12:.2f} TFLOP, {work.bytes / 1e9:.1f} GB moved, {work.gradient_bytes / 1e6:.1f} MB of gradients,"
    )
    print(f"  {work.small_reductions} reductions of statistics")
    print(f"  at the peak {work.flops / PEAK * 1e3:.1f} ms of arithmetic, {work.bytes / MEMORY * 1e3:.1f} ms of memory")
    rows, one = [], step_seconds(work, 1)["step"]
    for devices in (1, 8, 64, 1024):
        parts = step_seconds(work, devices)
        ms = {f"{name}_ms": round(value * 1e3, 2) for name, value in parts.items()}
        rate = devices * BATCH.value / parts["step"]
        rows.append(
            dict(devices=devices, **ms, images_per_second=round(rate), efficiency=round(one / parts["step"], 3))
        )
        print("  " + "  ".join(f"{name} {value:,}" for name, value in rows[-1].items()))
    if TABLE.value:
        with open(TABLE.value, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)

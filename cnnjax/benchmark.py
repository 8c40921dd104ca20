"""How fast a network trains on this machine: one number each for compiling, a step, its forward half, and memory.

The step is the one that training runs (SGD with momentum), on one resident batch of noise. FLOPs are two a
multiply-accumulate, as the layer table counts them; a training step counts three forward passes (the gradients of input
and weights are as large as it). MFU is the share of the largest rate that a square matrix product reaches here.
"""

import itertools
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import kernels, optimizers, parallel
from cnnjax.config import Optimizer
from cnnjax.data import pipeline
from cnnjax.experiment import Experiment
from cnnjax.inspection.layer_table import layer_table
from cnnjax.tasks import synthetic
from cnnjax.training import state as train_state
from cnnjax.training.initial import initial_state
from cnnjax.training.loop import train_step_for
from cnnjax.training.step import train_step_of

MOMENTUM, LEARNING_RATE = 0.9, 0.01
PRODUCT_SIDE = 2048
LEAST_ROUNDS = 5


class PerPixel(nn.Module):
    """A network with logits for each pixel, as one that classifies B * H * W examples."""

    inner: nn.Module

    def __call__(self, x: jax.Array, *, train: bool = False):
        logits = self.inner(x, train=train)
        return logits if isinstance(logits, dict) else logits.reshape(-1, logits.shape[-1])


def measure(
    model: nn.Module,
    input_shape: tuple[int, ...],
    batch_size: int,
    dtype: str,
    layout: parallel.Layout,
    seconds: float,
    profile: str = "",
) -> dict[str, Any]:
    """Compiles and times training steps and forward passes. Times are seconds; memory is bytes.

    Args:
      model: linen Module, whose activations have `dtype`.
      seconds: how long each of both is timed; at least five times whatever it takes.
      profile: a folder for a trace of five more steps, as TensorBoard and Perfetto read it; empty: none.
    """
    step, state, batch = training_of(PerPixel(model), input_shape, batch_size, layout)
    started = time.perf_counter()
    compiled = parallel.compile_train_step(layout, step, state).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - started
    holder = [state]

    def train_once():
        holder[0], metrics = compiled(holder[0], batch)
        jax.block_until_ready(metrics)

    steps = times(train_once, seconds)
    if profile:
        with jax.profiler.trace(profile):
            for _ in range(LEAST_ROUNDS):
                train_once()
    variables = holder[0].model_variables()
    variables = {name: variables[name] for name in ("params", "batch_stats") if variables[name]}
    apply = lambda variables, batch: model.apply(variables["inner"], batch["image"], train=False)
    inner = dict(inner={name: tree["inner"] for name, tree in variables.items()})
    forward = parallel.compile_eval_step(layout, apply)
    if layout.compile_with == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    forwards = times(lambda: jax.block_until_ready(forward(inner, batch)), seconds)
    macs = layer_table(model, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32), train=False).macs
    flops = 6 * macs * batch_size / statistics.median(steps)
    ceiling = product_flops(dtype, layout.kernels) * layout.size
    return dict(
        compile_seconds=compile_seconds,
        step_seconds=quartiles(steps),
        forward_seconds=quartiles(forwards),
        steps_timed=len(steps),
        images_per_second=batch_size / statistics.median(steps),
        flops_per_second=flops,
        ceiling_flops_per_second=ceiling,
        mfu=flops / ceiling,
        peak_bytes=peak_bytes(layout),
        program_bytes=_program_bytes(compiled),
    )


def training_of(model: nn.Module, input_shape: tuple[int, ...], batch_size: int, layout: parallel.Layout):
    """(train_step, state, batch): a network about to be trained on one batch of noise."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch_size, *input_shape), np.float32)
    variables = jax.jit(lambda: dict(model.init(jax.random.key(0), jnp.zeros((1, *input_shape)), train=False)))()
    logits = jax.eval_shape(lambda: model.apply(variables, jnp.zeros((batch_size, *input_shape)), train=False))
    task, targets = synthetic.labels(rng, logits)
    options = Optimizer(learning_rate=LEARNING_RATE, momentum=MOMENTUM, nesterov=False)
    rate = lambda step: jnp.float32(LEARNING_RATE)
    optimizer = optimizers.optimizer(options, rate, variables["params"])
    step = train_step_of(model, task, lambda key, batch, axis_name: batch, optimizer, rate)
    state = train_state.create(variables, optimizer, seed=0, ema=False, higher_is_better=True)
    return step, parallel.place_state(layout, state), parallel.place_for_training(layout, dict(image=image) | targets)


def times(run: Callable[[], None], seconds: float) -> list[float]:
    """Seconds of each of as many runs as there is time for, one before them not counted."""
    run()
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < LEAST_ROUNDS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return taken


def loader_ratios(built: Experiment, rounds: int = 5, steps: int = 20) -> list[float]:
    """Seconds of a step with the data's loader over seconds with one resident batch, one ratio a round, both in turn."""
    layout = built.layout
    state = parallel.place_state(layout, initial_state(built))
    step = parallel.compile_train_step(layout, train_step_for(built), state)
    batch_of = pipeline.TrainBatch(built.train, built.config.seed, built.config.batch_size)
    place = lambda batch: parallel.place_for_training(layout, batch)
    resident = place(batch_of(0))

    def seconds(state, batches):
        started, metrics = time.perf_counter(), None
        for placed in batches:
            state, metrics = step(state, placed)
        jax.block_until_ready(metrics)
        return state, time.perf_counter() - started

    state, _ = seconds(state, [resident])
    ratios = []
    for number in range(rounds):
        state, alone = seconds(state, itertools.repeat(resident, steps))
        with pipeline.batches(batch_of, number * steps, (number + 1) * steps) as batches:
            state, loaded = seconds(state, pipeline.ahead(batches, place))
        ratios.append(loaded / alone)
    return ratios


def lines(found: dict[str, Any]) -> list[str]:
    """What `measure` found, for a person to read."""
    quarter = lambda q, scale=1e3: (
        f"{q['median'] * scale:,.2f} ms (quartiles {q['low'] * scale:,.2f} to {q['high'] * scale:,.2f})"
    )
    text = [
        f"compile  {found['compile_seconds']:.2f} s",
        f"step     {quarter(found['step_seconds'])} over {found['steps_timed']} steps, {found['images_per_second']:,.1f} images/s",
        f"forward  {quarter(found['forward_seconds'])}",
        f"rate     {found['flops_per_second'] / 1e9:,.1f} GFLOP/s, {found['mfu']:.1%} of the {found['ceiling_flops_per_second'] / 1e9:,.1f} "
        "that a square matrix product reaches here",
        f"memory   {found['peak_bytes'] / 1e6:,.0f} MB at most, {found['program_bytes'] / 1e6:,.0f} MB of them the program's",
    ]
    if "loader_ratios" in found:
        ratios = found["loader_ratios"]
        text.append(
            f"loader   a step takes {statistics.median(ratios):.2f} times as long with the data's loader "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return text


def quartiles(taken: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(taken, (25, 50, 75))
    return dict(median=float(median), low=float(low), high=float(high))


def product_flops(dtype: str, path: str) -> float:
    """FLOP/s of one device in a square matrix product, the better of XLA's and the path's."""
    best = 0.0
    side = PRODUCT_SIDE if jax.default_backend() == "cpu" else 4 * PRODUCT_SIDE
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)  # a GPU is faster with numbers that are all alike
    for chosen in dict.fromkeys((kernels.XLA, path)):

        def product(a, b):
            with kernels.using(chosen):
                return kernels.dense(a, b, (((1,), (0,)), ((), ())))

        compiled = jax.jit(product)
        taken = times(lambda: jax.block_until_ready(compiled(a, a)), 1.0)
        best = max(best, 2 * side**3 / min(taken))
    return best


def peak_bytes(layout: parallel.Layout) -> int:
    """The most memory in use so far: on a device as it counts itself, on a CPU of the whole process."""
    counted = (layout.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
    return counted or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _program_bytes(compiled) -> int:
    memory = compiled.memory_analysis()
    return int(memory.temp_size_in_bytes + memory.argument_size_in_bytes) if memory else 0

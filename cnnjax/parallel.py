"""How a pure step is compiled and laid out on devices: `jit` over a mesh, or `pmap`.

`jit`: the step is written for the whole batch, and XLA adds the communication. The mesh has two axes, `data` x `fsdp`:
the batch is divided among all devices; parameters and optimizer state among those of one row (FSDP; Rajbhandari et al.
2020, ZeRO stage 3), and every row has a copy. With fsdp=1 each device holds all of them: plain data parallelism.

`pmap`: the step sees its device's part of the batch and adds up over the axis `data` itself; data parallel only.

A state is laid out by the shapes of its arrays alone, so a checkpoint of one layout goes on with any other.

Several processes share one mesh (`cnnjax.processes`): each reads the rows of a batch that its own devices hold
(`local_rows`), and what all of them must know, every process has.

A layout also says which kernels the step is traced with: on one CPU device and on GPUs faster ones than XLA's (`cnnjax.kernels`).
"""

import functools
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax import kernels as kernel_paths
from cnnjax import processes
from cnnjax.errors import UserError

DATA, FSDP = "data", "fsdp"
SMALLEST_SHARDED = 1024  # elements: to gather less costs more than it saves
# Of NVIDIA's libraries only what gives the same bits each time, and no choice among them by a stopwatch.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}


class Layout(NamedTuple):
    """A mesh, how steps are compiled for it, and where on it states and batches lie."""

    mesh: Mesh
    compile_with: str  # jit or pmap
    replicated: NamedSharding  # the whole array on every device
    split: NamedSharding  # the first axis divided among all devices
    compiler_options: dict[str, Any] | None = None
    kernels: str = kernel_paths.XLA
    why_kernels: str = ""

    @property
    def size(self) -> int:
        return self.mesh.size


def layout(
    devices: int = 0,
    fsdp: int = 1,
    compile_with: str = "jit",
    deterministic: bool = False,
    kernels: str = "auto",
) -> Layout:
    """A mesh over the first `devices` devices (0: all), groups of `fsdp` of which (0: all) share one copy of the state.

    Raises:
      UserError: there are fewer devices, or they cannot be grouped so, or the kernels asked for cannot work with them; of
        several processes, some would have none, or `pmap` is asked for.
    """
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a platform for which nothing is installed
        reason = (str(error).splitlines() or ["nothing is installed for $JAX_PLATFORMS"])[0][:200]
        raise UserError(f"JAX finds no devices: {reason}.") from None
    if devices > len(found):
        raise UserError(
            f"config.devices is {devices}, but there are {len(found)} ({found[0].platform}): use at most that many."
        )
    if processes.count() > 1:
        _check_for_processes(devices, len(found), compile_with)
    chosen = found[: devices or len(found)]
    fsdp = fsdp or len(chosen)
    if len(chosen) % fsdp:
        fitting = [n for n in range(1, len(chosen) + 1) if len(chosen) % n == 0]
        raise UserError(
            f"config.fsdp={fsdp} does not divide the {len(chosen)} devices: take one of {', '.join(map(str, fitting))}, "
            "or 0 for all of them."
        )
    shape = (len(chosen) // fsdp, fsdp)
    mesh = jax.make_mesh(shape, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2, devices=chosen)
    sharding = partial(NamedSharding, mesh)
    options = DETERMINISTIC if deterministic and chosen[0].platform == "gpu" else None
    path, why = kernel_paths.choose(kernels, len(chosen), chosen[0].platform)
    batch = sharding(PartitionSpec((DATA, FSDP)))
    return Layout(mesh, compile_with, sharding(PartitionSpec()), batch, options, path, why)


def _check_for_processes(devices: int, found: int, compile_with: str) -> None:
    """What a run of several processes cannot do."""
    if devices not in (0, found):
        raise UserError(
            f"config.devices={devices}, but the {processes.count()} processes have {found} together, and use all of them: "
            "leave it at 0."
        )
    if compile_with == "pmap":
        raise UserError("config.compile_with=pmap serves one process: with several take config.compile_with=jit.")


def check_divisible(layout: Layout, batch_size: int, name: str, parts: int = 1) -> None:
    """Raises UserError where a batch cannot be divided evenly among devices (and parts of accumulation)."""
    if batch_size % parts:
        raise UserError(f"config.{name}={batch_size} is not divisible by config.accumulate={parts}.")
    if batch_size // parts % layout.size:
        least = layout.size * parts
        better = max(least, round(batch_size / least) * least)
        raise UserError(
            f"config.{name}={batch_size} is not divisible by the {layout.size} devices"
            + (f" times config.accumulate={parts}" if parts > 1 else "")
            + f": take {better}, or set --config.devices."
        )


def shardings(layout: Layout, tree: Any) -> Any:
    """Where each array of a state lies: divided along its longest axis that the `fsdp` devices divide, the last of equals.

    Arrays of fewer than 1,024 elements, or without such an axis, are whole on every device.
    """
    parts = layout.mesh.shape[FSDP]

    def sharding(array) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % parts == 0]
        if parts == 1 or not axes or np.prod(array.shape) < SMALLEST_SHARDED:
            return layout.replicated
        longest = max(axes, key=lambda axis: (array.shape[axis], axis))
        return NamedSharding(layout.mesh, PartitionSpec(*[FSDP if a == longest else None for a in range(longest + 1)]))

    return jax.tree.map(sharding, tree)


def place_state(layout: Layout, state: Any) -> Any:
    """Puts a state, which every process has whole, where `shardings` says."""
    return _spread(state, shardings(layout, state))


def replicate(layout: Layout, tree: Any) -> Any:
    """Puts host arrays, which every process has, on every device."""
    return _spread(tree, jax.tree.map(lambda _: layout.replicated, tree))


def _spread(tree: Any, where: Any) -> Any:
    """Puts arrays that every process has where they belong; each process fills the devices that it has."""
    if processes.count() == 1:
        return jax.device_put(tree, where)

    def spread(array, sharding):
        if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
            numbers = spread(jax.random.key_data(array), sharding)
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(array))
        array = np.asarray(jax.device_get(array))
        with jax.transfer_guard("allow"):
            return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(spread, tree, where)


def local_rows(layout: Layout, batch_size: int) -> np.ndarray | None:
    """Which rows of a batch the devices of this process hold, in order; None where it is alone, and they hold all."""
    if processes.count() == 1:
        return None
    parts = layout.split.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


def place(layout: Layout, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Divides a batch among the devices. Of several processes, each gives its `local_rows`."""
    if processes.count() == 1:
        return jax.device_put(batch, layout.split)
    share = layout.size / len(layout.split.addressable_devices)

    def placed(rows):
        if isinstance(rows, jax.Array):  # of all, on the devices already
            return jax.device_put(rows, layout.split)
        with jax.transfer_guard("allow"):  # asked for in these words
            return jax.make_array_from_process_local_data(
                layout.split, rows, (round(len(rows) * share), *rows.shape[1:])
            )

    return jax.tree.map(placed, batch)


def place_for_training(layout: Layout, batch: dict) -> dict[str, jax.Array]:
    """Divides a batch as the compiled training step takes it: for `pmap` `[devices, B / devices, ...]`."""
    if layout.compile_with == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(layout.size, -1, *x.shape[1:]), batch)
    return place(layout, batch)


def greatest(layout: Layout) -> Callable[[np.ndarray], jax.Array]:
    """`f(values [n] int32) -> [n]`: the greatest that any process gives, on its way to all of them.

    All call it in the same order. The result is there when the devices have done what they were given before.
    """
    compiled = _in_turn(
        layout, jax.jit(lambda values: values.max(0), in_shardings=layout.split, out_shardings=layout.replicated)
    )
    devices = len(layout.split.addressable_devices)
    return lambda values: compiled(place(layout, dict(all=np.tile(np.int32(values), (devices, 1))))["all"])


def _with_kernels(layout: Layout, step: Callable) -> Callable:
    """The step, traced with the layout's kernels."""

    @functools.wraps(step)
    def traced(*args, **kwargs):
        with kernel_paths.using(layout.kernels):
            return step(*args, **kwargs)

    return traced


def _in_turn(layout: Layout, compiled: Callable) -> Callable:
    """The program; on the CPUs of several processes one that is awaited before the next may start: nothing overlaps there.

    Of two under way, Gloo takes one's messages for the other's where a process has died, and aborts without a word of ours.
    A device has all outputs of a program at once, so that one of them is watched.
    """
    if processes.count() == 1 or layout.mesh.devices.flat[0].platform != "cpu":
        return compiled

    def in_turn(*args):
        outputs = compiled(*args)
        under_way = [shard.data for shard in jax.tree.leaves(outputs)[-1].addressable_shards]
        while under_way:  # where one device has failed, others may wait for ever: the first error counts
            ready = [part.is_ready() for part in under_way]
            for part in itertools.compress(under_way, ready):
                part.block_until_ready()
            under_way = [part for part, done in zip(under_way, ready) if not done]
            time.sleep(0.0002 if under_way else 0)
        return outputs

    return in_turn


def compile_train_step(layout: Layout, step: Callable, state: Any) -> Callable:
    """`step(state, batch) -> (state, metrics)`, compiled; the memory of the old state is reused for the new one.

    `state` (its shapes are enough) lies as `place_state` puts it, batches as `place_for_training` does.
    """
    step = _with_kernels(layout, step)
    if layout.compile_with == "pmap":
        return jax.pmap(
            partial(step, axis_name=DATA),
            axis_name=DATA,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=list(layout.mesh.devices.flat),
        )
    where = shardings(layout, state)
    compiled = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(where, layout.split),
        out_shardings=(where, layout.replicated),
        compiler_options=layout.compiler_options,
    )
    return _in_turn(layout, compiled)


def compile_eval_step(layout: Layout, step: Callable) -> Callable:
    """`step(variables, batch) -> outputs`, compiled with `jit`; variables lie anywhere on the mesh, outputs on every device."""
    compiled = jax.jit(
        _with_kernels(layout, step),
        in_shardings=(None, layout.split),
        out_shardings=layout.replicated,
        compiler_options=layout.compiler_options,
    )
    return _in_turn(layout, compiled)


def describe(layout: Layout) -> str:
    """'jit, data=2 x fsdp=4'."""
    data, fsdp = layout.mesh.shape[DATA], layout.mesh.shape[FSDP]
    shared = f", shared by {processes.count()} processes" if processes.count() > 1 else ""
    return f"{layout.compile_with}, data={data}" + (f" x fsdp={fsdp}" if fsdp > 1 else "") + shared

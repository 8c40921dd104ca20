"""How a pure step is compiled and laid out on devices: `jit` over a mesh of devices, the batch split among them.

The step is written for the whole batch; XLA adds the communication. Parameters are on every device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.cache import cache_dir
from cnnjax.errors import UserError

DATA = "data"


class Layout(NamedTuple):
    """A mesh, and where on it states and batches lie."""

    mesh: Mesh
    replicated: NamedSharding  # the whole array on every device
    split: NamedSharding  # the first axis divided among the devices

    @property
    def size(self) -> int:
        return self.mesh.size


def layout(devices: int = 0) -> Layout:
    """A mesh over the first `devices` devices (0: all of them).

    Raises:
      UserError: there are fewer.
    """
    found = jax.devices()
    if devices > len(found):
        raise UserError(
            f"config.devices is {devices}, but there are {len(found)} ({found[0].platform}): use at most that many."
        )
    chosen = found[: devices or len(found)]
    mesh = jax.make_mesh((len(chosen),), (DATA,), axis_types=(AxisType.Auto,), devices=chosen)
    return Layout(mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(DATA)))


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


def replicate(layout: Layout, tree: Any) -> Any:
    """Puts host arrays on every device."""
    return jax.device_put(tree, layout.replicated)


def place(layout: Layout, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Divides a batch among the devices."""
    return jax.device_put(batch, layout.split)


def compile_train_step(layout: Layout, step: Callable) -> Callable:
    """`step(state, batch) -> (state, metrics)`, compiled; the memory of the old state is reused for the new one."""
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(layout.replicated, layout.split),
        out_shardings=(layout.replicated, layout.replicated),
    )


def compile_eval_step(layout: Layout, step: Callable) -> Callable:
    """`step(variables, batch) -> outputs`, compiled; the outputs are whole on every device."""
    return jax.jit(step, in_shardings=(layout.replicated, layout.split), out_shardings=layout.replicated)


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user's own, so that the next run starts at once."""
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

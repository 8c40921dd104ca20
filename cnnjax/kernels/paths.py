"""By which code the kernels are computed: XLA's own, oneDNN's, or forms written in JAX that suit a CPU or a GPU.

The choice is made once (`choose`) and holds while a step is traced inside `using`. Outside it is always XLA: what
inspects, counts or exports a network sees plain XLA operations. JAX knows of the choice: what it traced on one path
(a function that `jax.jit` or `jax.checkpoint` wraps, a loop's body) it traces anew on another.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError
from cnnjax.kernels.onednn.handler import bridge
from cnnjax.kernels.onednn.library import Unavailable

XLA, ONEDNN, PORTABLE, GPU = "xla", "onednn", "portable", "gpu"
TYPES = (jnp.float32, jnp.bfloat16)  # that kernels compute in
_ALL = {
    "convolutions",
    "transposed convolutions",
    "products",
    "biases",
    "batch normalisations",
    "max poolings",
    "response normalisations",
    "sums of squares",
}
SERVED = {  # what each path has kernels for; all else is XLA's
    XLA: set(),
    ONEDNN: _ALL,
    PORTABLE: _ALL,
    # Measured to be faster: XLA scatters the gradient of a maximum, and takes the weights' gradient of a transposed
    # convolution, whose input is dilated, for no gradient that cuDNN knows.
    GPU: {"transposed convolutions", "max poolings", "response normalisations"},
}
_path = jax.make_user_context(XLA)  # a part of the keys of JAX's caches of traces


@contextlib.contextmanager
def using(path: str) -> Iterator[None]:
    """What is traced inside takes this path; the derivatives of its kernels take it too, wherever they are traced."""
    with _path(path):
        yield


def current() -> str:
    """The path of what is being traced."""
    return _path.value


@functools.cache
def say_once(text: str) -> None:
    """Tells the person at the terminal, the first time."""
    print(f"cnnjax: {text}.", file=sys.stderr)


def computes(what: str, *arrays: jax.Array) -> bool:
    """Has the path that is traced kernels for `what` (of `SERVED`) of arrays like these? Other types are said once.

    Inside `jax.shard_map` it has none: the sums over devices that a gradient needs there are XLA's operations' to know.
    """
    if any(jax.typeof(array).manual_axis_type.varying for array in arrays):
        return False
    dtype, served = arrays[0].dtype, what in SERVED[current()]
    if served and dtype not in TYPES:
        say_once(f"{what} of {dtype} are XLA's: the {current()} kernels are for float32 and bfloat16")
    return served and dtype in TYPES


def choose(wanted: str, devices: int, platform: str | None = None) -> tuple[str, str]:
    """(path, why in words), for 'auto' or a path by name.

    Args:
      devices: how many of this process share a step.
      platform: 'cpu', 'gpu' or 'tpu'; by default, where JAX computes.

    Raises:
      UserError: a path that was asked for by name cannot work here.
    """
    platform = platform or jax.default_backend()
    if wanted == XLA:
        return XLA, "as asked for"
    if platform == "gpu" and wanted in ("auto", GPU):
        others = "XLA's, but for transposed convolution, max pooling and response normalisation"
        return GPU, others if wanted == "auto" else "as asked for"
    if wanted == GPU:
        return _unless_named(wanted, f"they are for a GPU, and this is a {platform}")
    if platform != "cpu":
        return _unless_named(wanted, f"they are for a CPU, and this is a {platform}")
    if devices > 1:
        return _unless_named(wanted, f"they serve one device, and this run has {devices}", "--config.devices=1")
    if wanted == PORTABLE:
        return PORTABLE, "as asked for"
    try:
        bridge()
    except Unavailable as reason:
        if wanted == ONEDNN:
            raise UserError(f"config.kernels=onednn cannot work: {reason}.") from None
        return PORTABLE, f"no oneDNN: {reason}"
    return ONEDNN, "as asked for" if wanted == ONEDNN else "one CPU device"


def _unless_named(wanted: str, why: str, instead: str = "") -> tuple[str, str]:
    if wanted != "auto":
        or_else = f", or {instead}" if instead else ""
        raise UserError(f"config.kernels={wanted} cannot work: {why}. Take --config.kernels=auto{or_else}.")
    return XLA, why.replace("they are", "the other kernels are").replace("they serve", "the others serve")

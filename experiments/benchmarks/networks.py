"""The networks that are compared, and the hardware in words."""

import os
from pathlib import Path

import jax

from cnnjax import models
from cnnjax.models import lenet


def small(options, **knobs):
    for name, value in knobs.items():
        setattr(options, name, value)
    return options


# name: (options, side, channels, classes, batch, name on PyTorch's side)
CPU_ROWS = {
    "lenet": (lenet.Options(activation="relu", pooling="max"), 28, 1, 10, 128, "lenet"),
    "unet16": (models.options("unet16"), 128, 3, 2, 8, "unet16"),
    "alexnet": (models.options("alexnet"), 227, 3, 1000, 32, "alexnet"),
    "resnet18_small": (small(models.options("resnet18"), stem="3x3"), 32, 3, 10, 128, "resnet18_small"),
    "vgg11": (models.options("vgg11"), 64, 3, 1000, 32, "vgg11"),
    "mobilenetv2": (models.options("mobilenetv2"), 96, 3, 1000, 32, "mobilenetv2"),
}
GPU_ROWS = {
    "resnet50": (models.options("resnet50"), 224, 3, 1000, 256, "resnet50"),
    "alexnet": (models.options("alexnet"), 227, 3, 1000, 256, "alexnet"),
    "vgg16": (models.options("vgg16"), 224, 3, 1000, 128, "vgg16"),
    "unet": (models.options("unet"), 576, 3, 2, 8, "unet"),
    "mobilenetv2": (models.options("mobilenetv2"), 224, 3, 1000, 256, "mobilenetv2"),
}


def cpu_row(name: str) -> tuple:
    """The row of that name, or any network of the zoo at a size at which a step takes no minutes. Raises UserError."""
    return CPU_ROWS.get(name) or (models.options(name), 96, 3, 1000, 16, None)


def hardware() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    bfloat16 = next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags), "no bfloat16")
    return f"{len(os.sched_getaffinity(0))} cores of {name}, {bfloat16}"

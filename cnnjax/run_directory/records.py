"""The small JSON files of a run directory."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.data.masks import Code
from cnnjax.data.source import Dataset
from cnnjax.errors import RunError, UserError
from cnnjax.storage import written_whole

CODE = "code"  # copies of the files that define options of a run
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


class DatasetRecord(NamedTuple):
    """What a run must remember of its data to be used without them."""

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]  # (*spatial, C); 0 where examples are of their own sizes
    dtype: str
    statistics: dict[str, np.ndarray]  # as the kind of input makes them
    split_sizes: dict[str, int]
    fingerprint: str
    has_objects: bool = False  # of pixels with classes: whether the masks number objects
    mask_code: Code | None = None  # how a folder's masks were read


def record_of(dataset: Dataset, statistics: dict[str, np.ndarray], split_sizes: dict[str, int]) -> DatasetRecord:
    return DatasetRecord(
        dataset.name,
        tuple(dataset.class_names),
        tuple(dataset.image_shape),
        np.dtype(dataset.dtype).name,
        statistics,
        split_sizes,
        dataset.fingerprint,
        dataset.has_objects,
        dataset.mask_code,
    )


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, whole or not at all. Raises RunError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from None


def read_json(path: Path) -> Any:
    """Raises UserError for a file that is missing or is no JSON."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None


def write_dataset(workdir: Path, record: DatasetRecord) -> None:
    statistics = {name: value.tolist() for name, value in record.statistics.items()}
    code = record.mask_code and record.mask_code._asdict()
    write_json(workdir / "dataset.json", record._asdict() | dict(statistics=statistics, mask_code=code))


def read_dataset(workdir: Path) -> DatasetRecord:
    path = workdir / "dataset.json"
    value = read_json(path)
    try:
        statistics = {name: np.asarray(v, np.float32) for name, v in value.pop("statistics").items()}
        value |= dict(class_names=tuple(value["class_names"]), image_shape=tuple(map(int, value["image_shape"])))
        if code := value.get("mask_code"):
            lists = dict(class_names=tuple(code["class_names"]), values=tuple(code["values"]))
            value["mask_code"] = Code(**code | lists)
        return DatasetRecord(statistics=statistics, **value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error!r}.") from None


def add_start(workdir: Path, step: int, changed: dict[str, Any]) -> None:
    """Adds to environment.json, the list of a run's starts: when, from which step, where, and which knobs were changed."""
    path = workdir / "environment.json"
    try:
        starts = json.loads(path.read_text())["starts"]
    except FileNotFoundError:
        starts = []
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
        path.replace(path.with_name(f"{path.name}.damaged"))  # a person may yet read it
    start = dict(time=round(time.time(), 3), step=step, changed=changed) | environment()
    write_json(path, dict(starts=[*starts, start]))


def environment() -> dict[str, Any]:
    """Versions, devices and the commit of the code that runs."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    git = (
        subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if _has_git()
        else None
    )
    return dict(
        python=platform.python_version(),
        packages=versions,
        platform=platform.platform(),
        cpus=os.cpu_count(),
        devices=[f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        commit=git.stdout.strip() if git and git.returncode == 0 else None,
        command=sys.argv,
    )


def _has_git() -> bool:
    import shutil

    return shutil.which("git") is not None


def is_run(workdir: Path) -> bool:
    return (workdir / "config.json").is_file()


def require_run(workdir: Path) -> None:
    """Raises UserError where a folder holds no run."""
    if not is_run(workdir):
        why = "does not exist" if not workdir.exists() else "holds no run (there is no config.json)"
        raise UserError(f"{workdir} {why}: give --workdir the folder of a run that `python run.py train` made.")

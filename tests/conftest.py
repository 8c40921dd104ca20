"""All tests run on 8 virtual CPU devices ($CNNJAX_TEST_DEVICES: other than 8), with JAX's strictest checks."""

import contextlib
import os
import resource

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
DEVICES = os.environ.get("CNNJAX_TEST_DEVICES", "8")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={DEVICES}"
if DEVICES != "1":  # most programs run a few times only; the kernels' tests are about speed and rounding
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import numpy as np
import pytest
from PIL import Image

from cnnjax.parallel import use_compilation_cache

# A file is one process's: those that take minutes come first, so that no process ends long before the other.
LONG = (
    "training/test_processes",
    "sweeps/test_slurm",
    "training/test_kills",
    "models/test_models",
    "training/test_loop",
    "training/test_damage",
    "sweeps/test_sweep_run",
    "test_segmentation_run",
    "test_readme",
    "training/test_interruption",
    "training/test_layouts",
    "models/test_classic",
    "test_benchmark",
)


def pytest_collection_modifyitems(items):
    place = lambda item: next((n for n, name in enumerate(LONG) if f"tests/{name}.py" in item.nodeid), len(LONG))
    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests prepare data and compile in a cache of their own, shared by all of a session."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["CNNJAX_CACHE_DIR"] = str(path)
    use_compilation_cache()
    return path


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """Thirty handwritten digits 0, 1, 2 as a person might keep them: DIR/{train,test}/{class}/*.png."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    root = tmp_path_factory.mktemp("pictures")
    for split, start in (("train", 0), ("test", 20)):
        for label in range(3):
            folder = root / split / f"digit {label}"
            folder.mkdir(parents=True)
            for n, pixels in enumerate(images[labels == label][start : start + 10]):
                Image.fromarray((pixels.reshape(8, 8) * 15).astype(np.uint8)).save(folder / f"{n}.png")
    return root


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run on the embedded digits, short but good enough to be right more often than not."""
    from cnnjax import cli

    workdir = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--config.model.channels=8,16", "--config.model.blocks=1", "--config.steps=60", "--config.log_every=20"]
    assert cli.main(["run.py", "train", "--config=experiments/digits.py", f"--workdir={workdir}", *flags]) == 0
    return workdir


@pytest.fixture
def file_size_limit():
    """A context in which the kernel refuses to let a file grow over so many bytes, much as a full disk would."""

    @contextlib.contextmanager
    def limit(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit

"""All tests run on 8 virtual CPU devices, with JAX's strictest checks.

What was compiled is kept in .pytest_cache/d: for all workers and child processes, and for the next session.
"""

import contextlib
import ctypes
import gc
import os
import resource
import shutil
from pathlib import Path

from tests.several import xla_flags

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Said before any test module is imported: JAX looks once, when it compiles for the first time, whether there is a cache.
KEPT = Path(__file__).parents[1] / ".pytest_cache" / "d"
PROGRAMS, MOST_BYTES = KEPT / "programs", 500_000_000  # one session leaves some 80 million
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(PROGRAMS)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Their folder, a new one in each session, would be part of the name of a program.
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
# Whoever wants no bytecode beside the sources has it here: a hundred processes would compile all modules anew.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = str(KEPT / "bytecode")

import jax
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from cnnjax.compilation_cache import use_compilation_cache

# The same random examples in every run, so that a change alone makes a test fail; others when all tests are run.
settings.register_profile("repeatable", derandomize=not os.environ.get("CNNJAX_TEST_ALL"))
settings.load_profile("repeatable")

# JAX makes so many objects while it traces that to look for garbage as often as usual takes a fifth of the time.
gc.set_threshold(100_000, 50, 100)


def pytest_sessionstart(session):
    """Programs of tests that are no more are never asked for again: when all are too many, one session compiles anew."""
    is_worker = hasattr(session.config, "workerinput")
    if not is_worker and sum(path.stat().st_size for path in PROGRAMS.glob("*")) > MOST_BYTES:
        shutil.rmtree(PROGRAMS)


def give_back() -> None:
    """Hands freed memory back to the system, which `import cnnjax` keeps it from: full-size networks would fill any machine."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def memory_of_a_module():
    """What the tests of a file took is free for those of the next, where all tests are run."""
    yield
    if os.environ.get("CNNJAX_TEST_ALL"):
        give_back()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests prepare data in a cache of the session's own; programs that were compiled once are never compiled again."""
    path = tmp_path_factory.mktemp("cache")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    (path / "compiled").symlink_to(PROGRAMS, target_is_directory=True)
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
    from tests.undrawn import no_pictures

    workdir = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--config.model.channels=8,16", "--config.model.blocks=1", "--config.steps=60", "--config.log_every=20"]
    flags += ["--config.devices=1", "--config.kernels=xla"]
    with no_pictures():
        assert cli.main(["run.py", "train", "--config=experiments/digits.py", f"--workdir={workdir}", *flags]) == 0
    return workdir


@pytest.fixture
def one_device(monkeypatch):
    """JAX finds one device, as on a laptop: for examples that do not say how many."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)


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

"""cnnjax: convolutional neural networks in JAX and Flax.

The command line is `python run.py`; the same in Python:

>>> import cnnjax
>>> config = cnnjax.new_config(model="cnn")
>>> config.model.channels, config.steps = (8, 16), 10
>>> experiment = cnnjax.build(config)
>>> summary = cnnjax.fit(experiment, "runs/notebook", log=lambda line: None)
>>> summary["examples"]
899
>>> run = cnnjax.load("runs/notebook")
>>> images = experiment.test.read([0, 1, 2])["image"]
>>> cnnjax.predictor(run)(images).shape
(3, 10)
"""

import importlib
import os

from cnnjax.foreign import FILES, install
from cnnjax.memory import keep_freed_memory
from cnnjax.xla import without_faulty_sums

without_faulty_sums()
keep_freed_memory()
if FILES in os.environ:  # a process that reads data for another: it unpickles what an experiment file defines
    install()

_HOME = dict(
    Config="config",
    new_config="serialization",
    model="models:options",
    build="experiment",
    fit="training.fit",
    load="inference",
    predictor="inference",
    predict_files="inference",
    task="tasks:options",
    UserError="errors",
    RunError="errors",
)

__all__ = list(_HOME)


def __getattr__(name: str):
    # Loaded when first used: `python run.py --help` need not wait for JAX.
    if name not in _HOME:
        raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"cnnjax.{module}"), attribute or name)


def __dir__():
    return sorted([*globals(), *__all__])

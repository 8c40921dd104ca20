"""The networks that tests go through: in their narrow forms, one for all whose narrow forms are the same."""

import dataclasses
import functools

import jax
import pytest

from cnnjax import knobs, models

CLASSES = 3
# Programs here run a few times only: not to optimise them saves more than it costs.
unoptimized = functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))


def without_chance(name):
    """The narrow form of a network, with nothing left out at random."""
    options = models.options(name).narrow()
    for knob in knobs.walk(options):
        if knob.name.endswith(("dropout", "stochastic_depth")):
            knobs.assign(options, knob.name, 0.0)
    return options


def _distinct() -> tuple[str, ...]:
    """The first name of each narrow form: ResNet-18 stands for -34 too."""
    forms = {}
    for name in models.MODELS:
        form = without_chance(name)
        forms.setdefault((type(form), dataclasses.astuple(form)[1:]), name)
    return tuple(forms.values())


DISTINCT = _distinct()
FAMILIES = {type(models.MODELS[name]): name for name in reversed(DISTINCT)}  # the first network of each file
LONGEST = ("googlenet",)  # 57 convolutions in its narrow form too
# What has to be compiled: one network of each family but the longest in every run, all of them in `make test-all`.
IN_EVERY_RUN = set(FAMILIES.values()) - set(LONGEST)
EACH_FAMILY = [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.slow) for n in DISTINCT]

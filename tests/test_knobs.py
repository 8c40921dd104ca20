"""Typed fields: checks, names and the way to JSON and back."""

import dataclasses
import json

import pytest

from cnnjax import experiment, knobs, models, serialization
from cnnjax.config import Config
from cnnjax.errors import UserError
from cnnjax.knobs import knob


@dataclasses.dataclass
class Inner:
    rate: float = knob(0.5, "a rate", above=0, high=1)
    names: tuple[str, ...] = knob(("a", "b"), "some names")


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    count: int = knob(3, "a count", low=1, below=10)
    kind: str = knob("red", "a colour", choices=("red", "green"))
    on: bool = knob(False, "a switch")


@pytest.mark.parametrize(
    "name", ["", "inner", "inner.", ".", "inner.rat", "count.x", "a.b.c", "__class__.count", "inner.__class__.rate"]
)
def test_what_is_no_knob_is_not_assigned(name):
    with pytest.raises(UserError, match=f"There is no config.{name}[.]"):
        knobs.assign(Outer(), name, 1)


def test_walk_gives_dotted_names_in_order():
    assert [k.name for k in knobs.walk(Outer())] == ["inner.rate", "inner.names", "count", "kind", "on"]


def test_check_brings_values_to_their_types():
    config = Outer(inner=Inner(rate=1, names=["x"]))
    knobs.check(config)
    assert config.inner.rate == 1.0 and isinstance(config.inner.rate, float)
    assert config.inner.names == ("x",)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("count", 2.5, "config.count must be a whole number, not 2.5."),
        ("count", True, "config.count must be a whole number, not True."),
        ("count", 0, "config.count must be at least 1 and below 10, not 0."),
        ("count", 10, "config.count must be at least 1 and below 10, not 10."),
        ("inner.rate", 0.0, "config.inner.rate must be above 0 and at most 1, not 0.0."),
        ("inner.rate", float("nan"), "config.inner.rate must be above 0 and at most 1, not nan."),
        ("inner.rate", "fast", "config.inner.rate must be a number, not 'fast'."),
        ("inner.names", (1,), "config.inner.names must be text, not 1."),
        ("kind", "gren", "config.kind must be one of 'red', 'green', not 'gren'. Did you mean green?"),
        ("on", 1, "config.on must be true or false, not 1."),
    ],
)
def test_check_names_the_knob_the_rule_and_the_value(name, value, message):
    config = Outer()
    knobs.assign(config, name, value)
    with pytest.raises(UserError) as error:
        knobs.check(config)
    assert str(error.value) == message


@pytest.mark.parametrize("name, nearest", [("cont", "count"), ("rate", "inner.rate"), ("inner.rat", "inner.rate")])
def test_assign_refuses_an_unknown_name_with_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"Did you mean {nearest}"):
        knobs.assign(Outer(), name, 1)


def test_a_bare_name_means_the_nested_knob_whatever_looks_more_like_it():
    assert knobs.nearest("rate", ["crate", "inner.rate"]) == " Did you mean inner.rate?"
    assert knobs.nearest("rte", ["crate", "inner.rate"]) == " Did you mean crate?"


@pytest.mark.parametrize("name", models.MODELS)
def test_every_configuration_survives_json(name):
    config = serialization.new_config(model=name)
    config.schedule.boundaries = (3.0, 5.0)
    config.optimizer.frozen = ("stage0*",)
    written = json.loads(json.dumps(serialization.to_json(config)))
    assert written["model"]["name"] == name
    assert serialization.from_json(written) == config


def test_defaults_are_valid_and_every_knob_is_explained():
    for name in models.MODELS:
        config = serialization.new_config(model=name)
        experiment.check(config)
        for k in knobs.walk(config):
            assert k.help and k.help[-1] != ".", k.name
            assert knobs.type_name(k.type)


def test_json_of_another_version_is_refused():
    written = serialization.to_json(serialization.new_config(model="cnn")) | dict(bacth_size=3)
    with pytest.raises(UserError, match="There is no config.bacth_size. Did you mean batch_size"):
        serialization.from_json(written)


def test_differences_of_identity_leave_out_what_does_not_change_numbers():
    old = serialization.to_json(serialization.new_config(source="class_folder"))
    config = serialization.new_config(source="class_folder")
    config.log_every, config.epochs, config.source.dir = 7, 99.0, "elsewhere"
    assert serialization.differences(old, serialization.to_json(config), knobs.IDENTITY) == []
    config.optimizer.learning_rate, config.model.blocks = 0.5, 1
    assert serialization.differences(old, serialization.to_json(config), knobs.IDENTITY) == [
        ("model.blocks", 2, 1),
        ("optimizer.learning_rate", 0.1, 0.5),
    ]
    other = serialization.new_config(model="lenet5", source="class_folder")
    assert serialization.differences(old, serialization.to_json(other), knobs.IDENTITY) == [("model", "cnn", "lenet5")]
    other = serialization.new_config(task="segmentation", source="class_folder")
    assert serialization.differences(old, serialization.to_json(other), knobs.IDENTITY) == [
        ("task", "classification", "segmentation")
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: setattr(c.optimizer, "learning_rate", -0.1), "config.optimizer.learning_rate must be at least 0"),
        (lambda c: setattr(c, "batch_size", 0), "config.batch_size must be at least 1"),
        (lambda c: setattr(c, "accumulate", 3), "config.batch_size=128 is not divisible by config.accumulate=3"),
        (lambda c: setattr(c.input, "channels", 2), "config.input.channels must be 0"),
        (lambda c: setattr(c, "model", None), "config.model must hold the options of a model"),
    ],
)
def test_check_of_a_whole_run(change, message):
    config = serialization.new_config(model="cnn")
    change(config)
    with pytest.raises(UserError, match=message):
        experiment.check(config)


def test_a_misspelt_assignment_is_an_error():
    with pytest.raises(AttributeError):
        Config().learning_rate = 3

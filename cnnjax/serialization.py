"""Configurations by names: the four choices and their tables, and what config.json holds of them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnnjax import foreign, inputs, knobs, migration, models, tasks
from cnnjax.config import Config
from cnnjax.data import sources
from cnnjax.errors import UserError

CHOICES = dict(
    model=models, task=tasks, input=inputs, source=sources
)  # fields of Config that hold options: their rooms
TABLES = dict(model=models.MODELS | models.PER_PIXEL, task=tasks.TASKS, input=inputs.INPUTS, source=sources.SOURCES)
DEFAULTS = dict(task="classification", input="images", source="digits")


def to_json(config: Config) -> dict[str, Any]:
    """All knobs as JSON values; the model's stand beside its name."""
    chosen = {c: getattr(config, c) or table.options(DEFAULTS[c]) for c, table in CHOICES.items()}
    values = knobs.to_dict(dataclasses.replace(config, **chosen))
    named = {c: dict(name=table.name_of(chosen[c])) | values[c] for c, table in CHOICES.items()}
    for choice, kind in foreign_classes(config).items():
        named[choice]["class"] = foreign.origin(kind)
    return dict(format=migration.FORMAT) | values | named


def foreign_classes(config: Config) -> dict[str, type]:
    """The classes of the options that stand in no table, by the fields that hold them."""
    known = {type(options) for table in TABLES.values() for options in table.values()}
    held = {choice: type(getattr(config, choice)) for choice in CHOICES if getattr(config, choice) is not None}
    return {choice: kind for choice, kind in held.items() if kind not in known}


def from_json(values: dict[str, Any], classes: Iterable[type] = (), copies: Path | None = None) -> Config:
    """The configuration that `to_json` wrote, of this version or an earlier one.

    Args:
      classes: those of options that stand in no table. None is looked for: code of a run directory never runs unasked.
      copies: the folder of the run directory that has copies of their files, for messages.

    Raises:
      UserError: it is damaged, or of a later version, has knobs that this version does not know, or needs other classes.
    """
    values = migration.current(values)
    for choice in CHOICES:
        if not isinstance(values.get(choice), dict) or not isinstance(values[choice].get("name"), str):
            raise UserError(f"config.json is damaged: it names no {choice}.")
    config = new_config()
    for choice, room in CHOICES.items():
        recorded = values[choice].get("class")
        made = foreign.found(choice, recorded, classes, copies)() if recorded else room.options(values[choice]["name"])
        knobs.update(made, {n: v for n, v in values[choice].items() if n not in ("name", "class")})
        setattr(config, choice, made)
    knobs.update(config, {n: v for n, v in values.items() if n != "format" and n not in CHOICES})
    return config


def new_config(
    model: str = "cnn", task: str = DEFAULTS["task"], input: str = DEFAULTS["input"], source: str = DEFAULTS["source"]
) -> Config:
    """A configuration with fresh options of a model, a task, a kind of input and a source, by their names.

    Raises:
      UserError: an unknown name; the message has the nearest.
    """
    named = dict(model=model, task=task, input=input, source=source)
    return Config(**{choice: CHOICES[choice].options(name) for choice, name in named.items()})


def differences(
    old: dict[str, Any], new: dict[str, Any], kind: str, classes: Iterable[type] = ()
) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every knob of a kind that differs, from what `to_json` wrote.

    The kind is `knobs.IDENTITY`, which changes the numbers of a run, or `knobs.MACHINE`; `classes` is as for `from_json`.
    """
    first, second = from_json(old, classes), from_json(new, classes)
    before, after = ({k.name: k for k in knobs.walk(config)} for config in (first, second))
    pairs = [(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())]
    for choice in CHOICES:
        names = before_name, after_name = [CHOICES[choice].name_of(getattr(c, choice)) for c in (first, second)]
        if before_name != after_name:
            return [(choice, *names)] if kind == knobs.IDENTITY else []
    return [(n, a.value, b.value) for n, a, b in pairs if a.kind == kind and a.value != b.value]

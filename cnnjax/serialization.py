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
        named[choice]["class"] = foreign.origin(kind) | (dict(scores=dict(kind.scores)) if choice == "task" else {})
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
    values, classes = migration.current(values), tuple(classes)
    for choice in CHOICES:
        if not isinstance(values.get(choice), dict) or not isinstance(values[choice].get("name"), str):
            raise UserError(f"config.json is damaged: it names no {choice}.")
    config = new_config()
    for choice, room in CHOICES.items():
        recorded, name = values[choice].get("class"), values[choice]["name"]
        is_foreign = "class" in values[choice]
        made = foreign.found(choice, recorded, classes, copies)() if is_foreign else room.options(name)
        setattr(config, choice, made)
    fields = {n: v for n, v in values.items() if n != "format" and n not in CHOICES}
    own = {c: {n: v for n, v in values[c].items() if n not in ("name", "class")} for c in CHOICES}
    knobs.update(config, own | fields)
    return config


def ranking(values: dict[str, Any]) -> tuple[str, bool, str]:
    """(score that the best checkpoint has, whether higher is better, which checkpoint is tested), of a config.json.

    No class of the run's own is needed for that.
    """
    values = migration.current(values)
    recorded = values["task"].get("class")
    scores = recorded["scores"] if recorded else tasks.options(values["task"]["name"]).scores
    metric = values["checkpoint"]["best_metric"] or next(iter(scores))
    return metric, scores.get(metric) == "higher", values["checkpoint"]["test"]


def changed_files(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Files of a run's own options that have changed since, though the classes have not: see `foreign.changed_files`."""
    changed = {}
    for choice in CHOICES:
        records = [
            values[choice].get("class") if isinstance(values.get(choice), dict) else None for values in (before, now)
        ]
        if all(records):
            changed |= foreign.changed_files(*records)
    return changed


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
        held = [getattr(config, choice) for config in (first, second)]
        if (labels := [label(choice, options) for options in held])[0] != labels[1]:
            return [(choice, *labels)] if kind == knobs.IDENTITY else []
    return [(n, a.value, b.value) for n, a, b in pairs if a and b if a.kind == kind and a.value != b.value]


def label(choice: str, options: Any) -> str:
    """The name of options; of a class of one's own, which may have the name of another, with the class."""
    name = CHOICES[choice].name_of(options)
    is_known = type(options) in {type(known) for known in TABLES[choice].values()}
    return name if is_known else f"{name} (class {type(options).__qualname__})"

"""Typed, checked and documented fields for configuration dataclasses.

A *knob* is a dataclass field of type `bool`, `int`, `float`, `str` or a `tuple` of one of these, with a sentence of
help, an optional range and choices, and a kind: IDENTITY knobs change the numbers of a run, MACHINE knobs do not.
Everything here works on any (nested) dataclass of knobs, and knows none in particular.
"""

import copy
import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

IDENTITY = "identity"
MACHINE = "machine"


class Knob(typing.NamedTuple):
    """One field of a configuration, found by `walk`."""

    name: str  # dotted: 'optimizer.learning_rate'
    type: Any  # bool, int, float, str or tuple[..., ...]
    value: Any
    help: str
    low: float | None
    above: float | None
    high: float | None
    below: float | None
    choices: tuple[str, ...] | None
    kind: str
    path: bool  # text that names a file or folder


def knob(default, help: str, *, low=None, above=None, high=None, below=None, choices=None, kind=IDENTITY, path=False):
    """A dataclass field with its help and the values it may take: low <= value <= high, above < value < below.

    `path`: it names a file or folder, which is recorded from the root on.
    """
    rules = dict(help=help, low=low, above=above, high=high, below=below, choices=choices, kind=kind, path=path)
    return dataclasses.field(default=default, metadata=rules)


_types = functools.cache(typing.get_type_hints)  # of a class's fields: their texts are parsed once


def walk(config, prefix: str = "") -> Iterator[Knob]:
    """All knobs of a nested dataclass, depth first, in the order of the file."""
    hints = _types(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{field.name}.")
        elif field.metadata:
            yield Knob(prefix + field.name, hints[field.name], value, **field.metadata)


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean X?' for the name most like the given one, or nothing."""
    names = list(names)
    # A person who types a bare name of a nested knob means that knob.
    same_leaf = [n for n in names if n.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    match = same_leaf[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {match[0]}?" if match else ""


def element_type(kind):
    """The type of a tuple's elements; None for another type."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def type_name(kind) -> str:
    """'a whole number', 'true or false', ... for a knob's type."""
    if element := element_type(kind):
        return {int: "whole numbers", float: "numbers", str: "words"}[element] + ", with commas between"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def pick(table: dict[str, Any], what: str, name: str, more: str = "") -> Any:
    """A fresh copy of the options of a name in a table. Raises UserError, with `more` at its end, for an unknown one."""
    if name not in table:
        raise UserError(f"There is no {what} {name!r}.{nearest(name, table)} The {what}s are {', '.join(table)}{more}.")
    return copy.deepcopy(table[name])


def _coerced(knob: Knob):
    """The knob's value in its type (int -> float, list -> tuple), or UserError."""
    value, kind = knob.value, knob.type
    if element := element_type(kind):
        if isinstance(value, (list, tuple)):
            return tuple(_coerced(knob._replace(value=v, type=element)) for v in value)
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"config.{knob.name} must be {type_name(knob.type)}, not {value!r}.")


def range_text(knob: Knob) -> str:
    """'at least 0 and below 1' for a knob's range; empty where it has none."""
    if knob.choices:
        return "one of " + ", ".join(repr(c) for c in knob.choices)
    words = dict(low="at least", above="above", high="at most", below="below")
    return " and ".join(
        f"{word} {getattr(knob, rule)}" for rule, word in words.items() if getattr(knob, rule) is not None
    )


def _in_range(knob: Knob, value) -> bool:
    if isinstance(value, tuple):
        return all(_in_range(knob, v) for v in value)
    if knob.choices is not None:
        return value in knob.choices
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return not (
        (knob.low is not None and value < knob.low)
        or (knob.above is not None and value <= knob.above)
        or (knob.high is not None and value > knob.high)
        or (knob.below is not None and value >= knob.below)
    )


def check(config) -> None:
    """Brings every knob to its type (in place) and holds it against its range.

    Raises:
      UserError: naming the first knob whose value has another type or lies out of its range.
    """
    for name, kind in _types(type(config)).items():
        if dataclasses.is_dataclass(kind) and not isinstance(getattr(config, name), kind):
            raise UserError(f"config.{name} must be a {kind.__name__}, not {getattr(config, name)!r}.")
    for knob in list(walk(config)):
        value = _coerced(knob)
        if not _in_range(knob, value):
            hint = nearest(value, knob.choices) if knob.choices and isinstance(value, str) else ""
            raise UserError(f"config.{knob.name} must be {range_text(knob) or 'finite'}, not {value!r}.{hint}")
        assign(config, knob.name, value)


def assign(config, name: str, value) -> None:
    """Sets the knob with a dotted name, without checking its value.

    Raises:
      UserError: there is no such knob; the message names the nearest one.
    """
    *path, leaf = name.split(".")
    holder = config
    for part in path:
        holder = getattr(holder, part, None)
    fields = dataclasses.fields(holder) if dataclasses.is_dataclass(holder) and not isinstance(holder, type) else ()
    if leaf not in [field.name for field in fields if field.metadata]:
        raise UserError(f"There is no config.{name}.{nearest(name, [knob.name for knob in walk(config)])}")
    setattr(holder, leaf, value)


def make_paths_absolute(config) -> None:
    """Files and folders from the root on (in place): what is recorded is read again from elsewhere."""
    for knob in list(walk(config)):
        if knob.path and isinstance(knob.value, str) and knob.value:
            assign(config, knob.name, str(Path(knob.value).expanduser().absolute()))


def to_dict(config) -> dict[str, Any]:
    """The knobs as nested dicts of JSON values (tuples become lists)."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def update(config, values: dict[str, Any], prefix: str = "") -> None:
    """Sets knobs from nested dicts as `to_dict` writes them, and checks them all. Keys that are absent keep their value.

    Raises:
      UserError: a key that is no knob, a wrong type or a value out of range.
    """

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    for name, value in flat(values):
        assign(config, name, value)
    check(config)

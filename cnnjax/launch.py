"""From a command line to a checked configuration: experiment files, and one absl flag for every knob."""

import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from cnnjax import experiment, foreign, knobs, migration, models, serialization
from cnnjax.config import Config
from cnnjax.errors import UserError
from cnnjax.knobs import nearest

STARTERS = Path(__file__).parent / "starters"


class CommandLine(NamedTuple):
    """What a person typed after the verb."""

    config: Config | None  # of --config, with all overrides; None without --config
    overrides: dict[str, Any]  # the knobs that were given, by dotted name
    flags: dict[str, str | None]
    arguments: list[str]
    experiment: str  # the name of the experiment file, without its folder and suffix; '' of a run that is read
    classes: tuple[type, ...] = ()  # of the file that --config names beside a run, whose options they are


def parse(
    arguments: list[str],
    verb_flags: tuple,
    base: Callable[[dict], Config] | None = None,
    of_sweep: bool = False,
) -> CommandLine:
    """Reads the arguments after the verb.

    `verb_flags` are those of the verb besides the knobs: `name`, `default`, `help` and `choices` (None: any text).
    `base`, where given, supplies the configuration that is overridden when there is no --config, or when --workdir names a
    run: it is called with the values of `verb_flags` as far as they can be read beforehand, and with the classes of the file
    that --config names then.
    `of_sweep`: --config names a sweep, which knobs do not change; it stands among the flags.

    Raises:
      UserError: an unknown flag or knob, a wrong type, a value out of range, a missing file.
    """
    given = _given(arguments)
    config, name, classes = None, "", ()
    if of_sweep and any(key.startswith("config.") for key in given):
        raise UserError("A sweep's knobs stand in its file: under common, or as a factor.")
    given_flags = {flag.name: given.get(flag.name, flag.default) for flag in verb_flags}
    if "config" in given and base is not None and given_flags.get("workdir"):
        classes = classes_of(given["config"])
        config = base(given_flags, classes)
    elif "config" in given and not of_sweep:
        config, name = load_experiment(given["config"])
    elif base is not None:
        config = base(given_flags)
    elif any(key.startswith("config.") for key in given):
        raise UserError("Say which experiment with --config=experiments/NAME.py; --config.KNOB=VALUE then changes it.")
    if config is not None:
        _choose(config, given)
    if config is not None:
        experiment.check_fields(config)  # as the file has them, before flags are made of them
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    _define(values, verb_flags, config)
    try:
        rest = values([sys.argv[0], *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, config, [k for k in values if k not in ("model",)])) from None
    except flags.Error as error:
        raise UserError(_sentence(str(error).removeprefix("flag "))) from None
    overrides = {}
    for knob in knobs.walk(config) if config is not None else ():
        if values[f"config.{knob.name}"].present:
            overrides[knob.name] = values[f"config.{knob.name}"].value
    for knob_name, value in overrides.items():
        knobs.assign(config, knob_name, value)
    if config is not None:
        knobs.make_paths_absolute(config)
        experiment.check(config)
        overrides |= {c: given[f"config.{c}"] for c in serialization.CHOICES if f"config.{c}" in given}
    typed = {flag.name: values[flag.name].value for flag in verb_flags} | dict(config=values["config"].value)
    return CommandLine(config, overrides, typed, rest, name, classes)


def _choose(config: Config, given: dict[str, str]) -> None:
    """Puts the options that were asked for by name into a configuration. Those of a name that it has keep their values."""
    for choice, table in serialization.CHOICES.items():
        name = given.get(f"config.{choice}")
        held = getattr(config, choice)
        is_held = held is not None and serialization.label(choice, held) == name
        if name is not None and not is_held:
            setattr(config, choice, table.options(name))
            if choice == "task" and config.checkpoint.best_metric not in config.task.scores:
                config.checkpoint.best_metric = ""  # a score of the task that it no longer is


def _unknown(flag: str, config: Config | None, known: list[str]) -> str:
    """What an unknown flag is answered with: its name since version 0.2, who has such a field, or the nearest flag."""
    field = flag.removeprefix("config.")
    new = migration.new_name(field)
    if new == "source":
        return (
            f"--{flag} is --config.source=NAME since version 0.2; a set of tensorflow-datasets is --config.source=tfds "
            "--config.source.set=NAME."
        )
    name = new or field
    choice, _, leaf = name.partition(".")
    having = [option for option, options in serialization.TABLES.get(choice, {}).items() if _has(options, leaf)]
    held = getattr(config, choice, None) if having else None
    lacks = "" if held is None or _has(held, leaf) else f"{serialization.label(choice, held)} has no field {leaf}"
    if new and having:
        return f"--{flag} is --config.{new} since version 0.2{', and ' + lacks if lacks else ''}."
    if lacks:
        few = having if len(having) < 6 else [*having[:5], "..."]
        return (
            f"There is no --{flag}: {lacks}. Of the {choice}s {', '.join(few)} {'has' if len(having) == 1 else 'have'}."
        )
    return f"There is no flag --{flag}.{nearest(flag, known)}"


def _has(options: Any, leaf: str) -> bool:
    """Whether options have a knob of a dotted name."""
    return leaf in {knob.name for knob in knobs.walk(options)}


def _sentence(text: str) -> str:
    start = text if text.startswith("config.") else text[:1].upper() + text[1:]
    return start + ("" if text.endswith(".") else ".")


def _given(arguments: list[str]) -> dict[str, str]:
    """The flags with a value, before it is known which flags there are."""
    given = {}
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            if not equals and index + 1 < len(arguments):
                value = arguments[index + 1]
            given[name] = value
    return given


class _KnobParser(flags.ArgumentParser):
    """Turns the text of a flag into the type of a knob."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument
        return _parsed(argument, self.kind)

    def flag_type(self):
        return knobs.type_name(self.kind)


def _parsed(text: str, kind):
    element = knobs.element_type(kind)
    try:
        if element is not None:
            parts = [part.strip() for part in text.strip().strip("()[]").split(",")]
            return tuple(_parsed(part, element) for part in parts if part)
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"must be {knobs.type_name(kind)}, not {text!r}") from None


class _KnobFlag(flags.Flag):
    """A flag whose errors name the knob, not absl's classes."""

    def _parse(self, argument):
        try:
            return self.parser.parse(argument)
        except ValueError as error:
            raise flags.IllegalFlagValueError(f"{self.name} {error}") from None


def _define(values: flags.FlagValues, verb_flags: tuple, config: Config | None) -> None:
    flags.DEFINE_string("config", None, "the experiment: FILE.py or FILE.py:NAME", flag_values=values)
    for choice in serialization.CHOICES:
        flags.DEFINE_string(f"config.{choice}", None, f"the {choice}, by name", flag_values=values)
    for flag in verb_flags:
        if flag.choices == ("true", "false"):
            flags.DEFINE_boolean(flag.name, flag.default == "true", flag.help, flag_values=values)
        elif flag.choices:
            flags.DEFINE_enum(flag.name, flag.default, flag.choices, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=values)
    for knob in knobs.walk(config) if config is not None else ():
        name = f"config.{knob.name}"
        parser, serializer = _KnobParser(knob.type), flags.ArgumentSerializer()
        boolean = dict(boolean=True) if knob.type is bool else {}
        values[name] = _KnobFlag(parser, serializer, name, knob.value, knob.help, **boolean)


def _field_names() -> set[str]:
    """The names of all sections and knobs, without their dots."""
    return {part for knob in knobs.walk(serialization.new_config()) for part in knob.name.split(".")}


def load_experiment(spec: str) -> tuple[Config, str]:
    """The configuration of FILE.py or FILE.py:NAME, and the file's name without suffix.

    NAME is handed to `get_config` where it takes an argument; else it chooses the model.

    Raises:
      UserError: the file is missing, fails, or returns no Config.
    """
    path, name = _file_of(spec)
    takes_name = False

    def get_config(function: Callable) -> Any:
        nonlocal takes_name
        takes_name = bool(inspect.signature(function).parameters)
        return function(*([name] if name and takes_name else []))

    config = call_in_file(path, "get_config", get_config)
    if not isinstance(config, Config):
        raise UserError(f"get_config() of {path} must return a cnnjax.config.Config, not {type(config).__name__}.")
    if name and not takes_name:
        config.model = models.options(name)
    return config, path.stem


def _file_of(spec: str) -> tuple[Path, str]:
    """(file, NAME) of FILE.py:NAME; of a starter's name, where there is no such file, the one that is installed."""
    file, has_name, name = spec.partition(".py:")
    path = Path(file + ".py" if has_name else spec).expanduser()
    if not path.is_file() and not has_name:
        starter, _, name = spec.partition(":")
        if (installed := STARTERS / f"{starter}.py").is_file() and starter.isidentifier():
            return installed, name
    return path, name


def classes_of(spec: str) -> tuple[type, ...]:
    """The classes of an experiment file, which is executed; its `get_config` is not called."""
    return call_in_file(_file_of(spec)[0], "get_config", lambda f: tuple(classes_beside(f)))


def classes_beside(function: Callable) -> list[type]:
    """The classes that the module of a function defines or imports."""
    return foreign.classes_in(sys.modules[function.__module__])


def call_in_file(path: Path, name: str, call: Callable[[Callable], Any] = lambda function: function()) -> Any:
    """What the function `name` of a person's Python file returns.

    Raises:
      UserError: the file is missing, fails, or has no such function.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("experiments")
        others = [str(p.with_suffix("")) for p in sorted(folder.glob("*.py"))]
        starters = sorted(p.stem for p in STARTERS.glob("*.py") if p.stem != "__init__")
        hint = nearest(str(path.with_suffix("")), others).replace("?", ".py?") or nearest(path.stem, starters)
        raise UserError(f"There is no experiment file {path}.{hint}")
    if path.suffix != ".py":
        raise UserError(f"--config={path} is no experiment: give a Python file with {name}().")
    try:
        module = foreign.execute(path)
        if not hasattr(module, name):
            returns = dict(get_config="a cnnjax.config.Config", get_sweep="a cnnjax.sweeps.ablation.Sweep")[name]
            raise UserError(f"{path} has no function {name}() that returns {returns}.")
        return call(getattr(module, name))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a person's file may raise
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else "?"
        unknown = re.search(r"has no attribute '(\w+)'", str(error))
        hint = nearest(unknown[1], _field_names()) if unknown else ""
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {error}.{hint}") from None

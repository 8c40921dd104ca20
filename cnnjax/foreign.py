"""Options that an experiment file, or another package, defines: where a class comes from, and how it is found again.

Code that lies in a run directory never runs unasked. A run records of each such class its file and the SHA-256 of its text,
and keeps copies of the files for the record; a later command is told by --config=FILE.py where to find the class.
"""

import dataclasses
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnjax.errors import UserError, first_line

PREFIX = "cnnjax_experiment_"
FILES = "CNNJAX_EXPERIMENT_FILES"  # which module is which file, for processes that read data and unpickle its classes
PLAIN = (bool, int, float, str)


# --- Files of experiments ---------------------------------------------------------------------------------------------


def execute(path: Path) -> ModuleType:
    """The module of a person's Python file, executed anew. It may import its siblings; worker processes find its classes."""
    path = path.absolute()
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    os.environ[FILES] = json.dumps(
        {n: f for n, f in _files().items() if n != name} | {name: str(path)}
    )  # the last is new
    install()
    _forget_siblings_of_others(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # while it imports, its own siblings go first
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
        _let_siblings_be_found(path)
    return module


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of experiment files, in the processes that this one starts too."""

    def find_spec(self, name, path=None, target=None):
        file = _files().get(name) if name.startswith(PREFIX) else None
        if file is None:
            return None
        _let_siblings_be_found(Path(file))
        return importlib.util.spec_from_file_location(name, file)


def install() -> None:
    """Lets this process find the modules of experiment files by their names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _files() -> dict[str, str]:
    return json.loads(os.environ.get(FILES, "{}"))


def _let_siblings_be_found(path: Path) -> None:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no sibling stands for a package of the same name


def _forget_siblings_of_others(folder: Path) -> None:
    """Modules that an experiment file elsewhere has imported under a name that a file here has too: `copy/nets.py`."""
    others = {Path(file).parent for file in _files().values()} - {folder}
    for path in folder.glob("*.py"):
        file = getattr(sys.modules.get(path.stem), "__file__", None)
        if file and Path(file).absolute().parent in others:
            del sys.modules[path.stem]


def classes_in(module: ModuleType) -> list[type]:
    """The classes that a module defines or imports, and those of the modules that it imports."""
    values = list(vars(module).values())
    values += [value for other in values if isinstance(other, ModuleType) for value in list(vars(other).values())]
    return [value for value in values if isinstance(value, type)]


# --- Where a class comes from -----------------------------------------------------------------------------------------


def origin(kind: type) -> dict[str, Any]:
    """Where a class comes from: `name`, `file`, the `experiment` file that brought it, the SHA-256 of its own text, and
    `files`, that of each file that is kept for the record.

    Raises:
      UserError: it has no text, as one that was typed or made at run time.
    """
    try:
        text, file = inspect.getsource(kind), Path(inspect.getfile(kind)).absolute()
        kept = {str(name): _digest(path.read_bytes()) for name, path in _kept(kind).items()}
    except (OSError, TypeError) as error:
        raise UserError(
            f"The text of class {kind.__qualname__} cannot be found ({error}): define it in a file, so that later commands can."
        ) from None
    brought = list(_files().values())[-1:] or [str(file)]
    return dict(
        name=kind.__qualname__, file=str(file), experiment=brought[0], class_sha256=_digest(text.encode()), files=kept
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _kept(kind: type) -> dict[Path, Path]:
    """The files that are kept for a class, by their place in the run directory's folder of copies."""
    own = Path(inspect.getfile(kind)).absolute()
    module = kind.__module__
    kept = {Path(own.name) if module.startswith(PREFIX) else Path(*module.split(".")).with_suffix(".py"): own}
    for file in list(_files().values())[-1:]:  # the experiment, and what it has imported from its folder
        folder = Path(file).parent
        kept[Path(Path(file).name)] = Path(file)
        for name, loaded in list(sys.modules.items()):
            path = Path(getattr(loaded, "__file__", None) or "").absolute()
            ours = path.suffix == ".py" and path.is_relative_to(folder) and name.partition(".")[0] != "cnnjax"
            if ours and "site-packages" not in path.parts and not name.startswith(PREFIX):
                kept[path.relative_to(folder)] = path
    return {name: path for name, path in kept.items() if path.is_file()}


def copy_files(kinds: Iterable[type], folder: Path, step: int) -> None:
    """Copies of the files of classes, for the record; those of an earlier start that have changed are kept beside them."""
    for kind in kinds:
        for name, path in _kept(kind).items():
            there, new = folder / name, path.read_bytes()
            there.parent.mkdir(parents=True, exist_ok=True)
            if there.exists() and there.read_bytes() != new:
                before = folder / f"until_step_{step}" / name
                before.parent.mkdir(parents=True, exist_ok=True)
                before.write_bytes(there.read_bytes())
            there.write_bytes(new)


def found(what: str, recorded: Any, classes: Iterable[type], copies: Path | None = None) -> type:
    """The class that a run recorded, among those that were named.

    Args:
      what: the field that holds its options: 'task'.
      recorded: what `origin` said of it.
      copies: the folder of the run directory that has copies of its files.

    Raises:
      UserError: it is not among them, or its text is another now, or the record is damaged.
    """
    if not isinstance(recorded, dict) or not all(
        isinstance(recorded.get(name), str) for name in ("name", "file", "experiment", "class_sha256")
    ):
        raise UserError(f"config.json is damaged: its {what} does not say of which class it is.")
    named = [kind for kind in classes if kind.__qualname__ == recorded["name"] and dataclasses.is_dataclass(kind)]
    for kind in named:
        if origin(kind)["class_sha256"] == recorded["class_sha256"]:
            return kind
    copy = copies / Path(recorded["experiment"]).name if copies else Path(recorded["experiment"])
    if named:
        raise UserError(
            f"config.{what}: class {recorded['name']} in {inspect.getfile(named[0])} is not what the run was trained with. "
            f"{'A copy of that is' if copies else 'That was in'} {copy}."
        )
    raise UserError(
        f"config.{what} of this run is class {recorded['name']} of {recorded['file']}, whose code does not run unasked: name "
        f"it by --config={copy} (in Python: options=[{recorded['name']}])."
    )


def changed_files(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Files that are others now than a record of a class says: {name: [first digits of the old SHA-256, of the new]}."""
    there, here = (record.get("files") or {} for record in (before, now))
    short = lambda digest: digest[:12] if digest else "missing"
    names = [name for name in there if there[name] != here.get(name)]
    return {name: [short(there[name]), short(here.get(name))] for name in names}


# --- What such a class must be ----------------------------------------------------------------------------------------


def name_of(options: Any, table: dict[str, Any], what: str, attributes: tuple[str, ...], page: str) -> str:
    """The name of options: that in the table of their room, or of a class that somebody else has written.

    Args:
      attributes: what such options must have, as `page` says.

    Raises:
      UserError: they are no options at all, or lack something, or have a field that is no knob.
    """
    kind, own = type(options), getattr(options, "name", None)
    known = [name for name, entry in table.items() if type(entry) is kind]
    if known:  # several, where a family of networks shares its options
        return own if own in known else known[0]
    if not dataclasses.is_dataclass(kind):
        raise UserError(f"config.{what} must hold the options of a {what} ({', '.join(table)}), not {options!r}.")
    if missing := [name for name in attributes if not hasattr(options, name)]:
        raise UserError(f"config.{what}: {kind.__name__} lacks {', '.join(missing)}: see {page}.")
    if "<locals>" in kind.__qualname__:
        raise UserError(f"config.{what}: class {kind.__name__} stands in a function: define it at the top of its file.")
    _check_fields(kind, what)
    return str(own or kind.__name__)


def _check_fields(kind: type, what: str) -> None:
    """Raises UserError for a field that is no knob, has no default, or a type that no flag has."""
    try:
        types = typing.get_type_hints(kind)
    except Exception as error:  # an annotation may be any expression
        raise UserError(
            f"config.{what}: the annotations of {kind.__name__} cannot be read: {first_line(error)}."
        ) from None
    for field in dataclasses.fields(kind):
        name = f"config.{what}: {kind.__name__}.{field.name}"
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{name} has no default: give it one, by cnnjax.knobs.knob.")
        hint = types[field.name]
        if field.name == "name" or dataclasses.is_dataclass(hint):
            continue
        if not field.metadata:
            raise UserError(f"{name} is no knob: write {field.name}: ... = knob(DEFAULT, HELP), from cnnjax.knobs.")
        of_tuple = typing.get_args(hint)[:1] if typing.get_origin(hint) is tuple else ()
        if (of_tuple or (hint,))[0] not in PLAIN:
            raise UserError(
                f"{name} is of type {hint}: fields are bool, int, float, str, or tuple[..., ...] of one of these."
            )

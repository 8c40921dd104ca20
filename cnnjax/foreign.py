"""Options that an experiment file, or another package, defines: where a class comes from, and how it is found again.

Code that lies in a run directory never runs unasked. A run records of each such class its file and the SHA-256 of its text,
and keeps a copy of the file for the record; a later command is told by --config=FILE.py where to find the class.
"""

import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnjax.errors import UserError

PREFIX = "cnnjax_experiment_"
FILES = "CNNJAX_EXPERIMENT_FILES"  # which module is which file, for processes that read data and unpickle its classes


def execute(path: Path) -> ModuleType:
    """The module of a person's Python file, executed anew. It may import its siblings; worker processes find its classes."""
    path = path.absolute()
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    _let_siblings_be_found(path)
    os.environ[FILES] = json.dumps(_files() | {name: str(path)})
    install()
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of experiment files, in the processes that this one starts too."""

    def find_spec(self, name, path=None, target=None):
        file = _files().get(name) if name.startswith(PREFIX) else None
        if file is None:
            return None
        _let_siblings_be_found(Path(file))
        return importlib.util.spec_from_file_location(name, file)


def _let_siblings_be_found(path: Path) -> None:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no sibling stands for a package of the same name


def install() -> None:
    """Lets this process find the modules of experiment files by their names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _files() -> dict[str, str]:
    return json.loads(os.environ.get(FILES, "{}"))


def origin(kind: type) -> dict[str, str]:
    """Where a class comes from: `name`, `file`, and the SHA-256 of that file and of the class's own text."""
    file = inspect.getfile(kind)
    digest = lambda data: hashlib.sha256(data).hexdigest()
    return dict(
        name=kind.__qualname__,
        file=str(Path(file).absolute()),
        sha256=digest(Path(file).read_bytes()),
        class_sha256=digest(inspect.getsource(kind).encode()),
    )


def found(what: str, recorded: dict[str, str], classes: Iterable[type], copies: Path | None = None) -> type:
    """The class that a run recorded, among those that were named.

    Args:
      what: the field that holds its options: 'task'.
      recorded: what `origin` said of it.
      copies: the folder of the run directory that has a copy of its file.

    Raises:
      UserError: it is not among them, or its text is another now.
    """
    file = copies / Path(recorded["file"]).name if copies else Path(recorded["file"])
    for kind in classes:
        if kind.__qualname__ != recorded["name"]:
            continue
        if origin(kind)["class_sha256"] != recorded["class_sha256"]:
            raise UserError(
                f"config.{what}: class {recorded['name']} in {inspect.getfile(kind)} is not what the run was trained with. "
                f"{'A copy of that is' if copies else 'That was in'} {file}."
            )
        return kind
    raise UserError(
        f"config.{what} of this run is class {recorded['name']} of {recorded['file']}, whose code does not run unasked: name "
        f"it by --config={file} (in Python: options=[{recorded['name']}])."
    )


def classes_in(module: ModuleType) -> list[type]:
    """The classes that a module defines or imports."""
    return [value for value in vars(module).values() if isinstance(value, type)]


def copy_files(kinds: Iterable[type], folder: Path) -> None:
    """Copies of the files of classes, and of those that an experiment file has imported from beside it, for the record."""
    for kind in kinds:
        file = Path(inspect.getfile(kind)).absolute()
        for path in {file, *(_siblings(file) if kind.__module__.startswith(PREFIX) else ())}:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / path.name).absolute() != path:
                (folder / path.name).write_bytes(path.read_bytes())


def _siblings(file: Path) -> set[Path]:
    """The files of modules that lie in the same folder."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    paths = {Path(one).absolute() for one in files if one}
    return {path for path in paths if path.parent == file.parent and path.suffix == ".py"}


def require(options: Any, what: str, attributes: tuple[str, ...], names: Iterable[str], page: str) -> str:
    """The name of options that stand in no table: of a class that somebody else has written.

    Args:
      attributes: what such options must have, as `page` says.
      names: of those in the table, for the message.

    Raises:
      UserError: they are no options at all, or lack something.
    """
    if not hasattr(type(options), "__dataclass_fields__"):
        raise UserError(f"config.{what} must hold the options of a {what} ({', '.join(names)}), not {options!r}.")
    if missing := [name for name in attributes if not hasattr(options, name)]:
        raise UserError(f"config.{what}: {type(options).__name__} lacks {', '.join(missing)}: see {page}.")
    return str(getattr(options, "name", type(options).__name__))

"""Where prepared sets of tfds lie, and what they are called."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from cnnjax.cache import cache_dir
from cnnjax.errors import UserError
from cnnjax.knobs import nearest

INFO_FILE = "dataset_info.json"
CONFIG_FILE = ".config/metadata.json"


class Name(NamedTuple):
    """'set/config:version' taken apart; None where it says nothing."""

    name: str
    config: str | None
    version: str | None


class Prepared(NamedTuple):
    """A version's folder, and the formats its examples are stored in ('array_record', 'tfrecord', ...)."""

    folder: Path
    formats: frozenset[str]


def parse_name(text: str) -> Name:
    """Takes a set's name apart, or raises UserError."""
    from tensorflow_datasets.core import naming

    try:
        name, kwargs = naming.parse_builder_name_kwargs(text)
    except ValueError:
        name, kwargs = None, {}
    if name is None or name.namespace or not kwargs.keys() <= {"config", "version"}:
        raise UserError(
            f"config.source.set: {text!r} is no data set's name.{_nearest_set(text)}\n"
            "Write digits, folder, or as tfds does: name, name/config, name:3.0.1."
        )
    return Name(name.name, kwargs.get("config"), kwargs.get("version"))


def require_known(name: str) -> None:
    """Raises UserError, with the nearest name, where tfds knows no such set."""
    if name not in _known_sets():
        raise UserError(f"config.source.set: there is no data set {name!r}.{_nearest_set(name)}")


def _known_sets() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)  # the community's need a network


def _nearest_set(name: str) -> str:
    return nearest(name, _known_sets())


def target_folder(source) -> Path:
    """The data_dir that sets are prepared into."""
    given = source.dir or os.environ.get("CNNJAX_DATA_DIR")
    return Path(given).expanduser() if given else cache_dir("tfds")


def _search_folders(source) -> list[Path]:
    """The data_dirs that are searched for prepared sets, first things first."""
    target = target_folder(source)
    folders = [target] if target == cache_dir("tfds") else [target, target / "tfds"]
    folders += [Path(f).expanduser() for f in (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets") if f]
    return list(dict.fromkeys(folders))


def prepared_versions(name: Name, folder: Path) -> list[Prepared]:
    """The prepared versions of a set below a data_dir that fit its name, newest first.

    Raises:
      UserError: the name leaves the config open, and several are there.
    """
    from tensorflow_datasets.core.utils import version as versions

    root = folder / name.name
    if name.config:
        root = root / name.config
    elif not versions.list_all_versions(root) and (found := _config(name.name, root)):
        root = root / found
    fitting = [v for v in versions.list_all_versions(root) if name.version is None or v.match(name.version)]
    # tfds writes the info last: a folder without it is not whole.
    return [prepared_at(root / str(v)) for v in reversed(fitting) if (root / str(v) / INFO_FILE).is_file()]


def _config(name: str, root: Path) -> str | None:
    """The config that a bare name means: the default one, else the only one that is there."""
    found = sorted({path.parents[1].name for path in root.glob(f"*/*/{INFO_FILE}")})
    metadata = root / CONFIG_FILE
    default = read_metadata(metadata).get("default_config_name") if metadata.is_file() else None
    if default in found:
        return default
    if len(found) > 1:
        raise UserError(f"config.source.set: {name} is there as {', '.join(f'{name}/{c}' for c in found)}; say which.")
    return found[0] if found else None


def read_metadata(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}. Prepare the set again.") from error


def prepared_at(folder: Path) -> Prepared:
    info = read_metadata(folder / INFO_FILE)
    return Prepared(folder, frozenset([info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", ())]))


def find(source) -> Path:
    """The folder of the newest version, in ArrayRecord, of the set that `source` names.

    Raises:
      UserError: there is none; the message says where was looked, and how to prepare it.
    """
    name = parse_name(source.set)
    if folder := readable_folder(source, name):
        return folder
    others = [p.folder.name for p in found_anywhere(source, name._replace(version=None))]
    if not others:
        require_known(name.name)
    state = f"has other versions ({', '.join(others)})" if others else "is not prepared"
    raise UserError(
        f"{source.set} {state} in {', '.join(map(str, _search_folders(source)))}.\n"
        "Prepare it: python run.py prepare --config=...; or say where it lies: --config.source.dir=FOLDER"
    )


def found_anywhere(source, name: Name) -> list[Prepared]:
    return [prepared for folder in _search_folders(source) for prepared in prepared_versions(name, folder)]


def readable_folder(source, name: Name) -> Path | None:
    """The first folder that holds the set as ArrayRecord; UserError where there are only other formats."""
    found = found_anywhere(source, name)
    for prepared in found:
        if "array_record" in prepared.formats:
            return prepared.folder
    if not found:
        return None
    folder, formats = found[0]
    raise UserError(
        f"{source.set} is prepared in {folder} as {', '.join(sorted(formats))}; ArrayRecord is needed.\n"
        f"Convert it: python run.py prepare --config=... --from={folder}"
    )

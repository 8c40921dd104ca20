"""How sets of tfds get prepared: built by tfds, or converted from TFRecord."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cnnjax.data.tfds_folders import (
    CONFIG_FILE,
    INFO_FILE,
    Name,
    found_anywhere,
    parse_name,
    prepared_at,
    prepared_versions,
    read_metadata,
    readable_folder,
    require_known,
    target_folder,
)
from cnnjax.data.tfrecord import copy_shard
from cnnjax.errors import RunError, UserError, first_line


def prepare(source, source_dir: str = "", log: Callable[[str], None] = print) -> Path:
    """Makes the set that `source` names ready for reading, and returns its folder.

    Args:
      source_dir: where the set lies prepared as TFRecord: its version's folder, or a data_dir that holds it.
        Empty: tfds downloads and builds it, which needs TensorFlow.

    Raises:
      UserError: an unknown name, nothing to convert, or TensorFlow is missing.
      RunError: what is given is damaged, or tfds failed.
    """
    name = parse_name(source.set)
    return _convert(source, name, Path(source_dir).expanduser(), log) if source_dir else _build(source, name, log)


def _build(source, name: Name, log: Callable[[str], None]) -> Path:
    """Lets tfds build a set."""
    if folder := readable_folder(source, name):
        log(f"{source.set} is already prepared in {folder}.")
        return folder
    require_known(name.name)
    missing = [m for m in ("tensorflow", "importlib_resources") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError(
            f"To build {source.set}, tfds needs {' and '.join(missing)}: pip install -r requirements-prepare.txt\n"
            "Or convert a TFRecord preparation from elsewhere: python run.py prepare --config=... --from=FOLDER"
        )
    import tensorflow_datasets as tfds

    target = target_folder(source)
    try:
        builder = tfds.builder(source.set, data_dir=str(target), file_format="array_record")
    except Exception as error:
        raise UserError(f"tfds cannot build {source.set}: {first_line(error)}") from error
    manual = target / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (manual.is_dir() and any(manual.iterdir())):
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise UserError(f"{source.set} must be downloaded by hand into {manual}, then prepared again. {instructions}")
    log(f"Building {source.set} in {target}.")
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever one of hundreds of builders may raise, on top of the network and the disk
        raise RunError(f"tfds could not build {source.set}: {first_line(error)}") from error
    folder = Path(builder.data_dir)
    log(f"{source.set} is now prepared in {folder}.")
    return folder


def _convert(source, name: Name, given: Path, log: Callable[[str], None]) -> Path:
    """Copies a TFRecord preparation to ArrayRecord: the records, serialised tf.train.Examples, are the same in both."""
    given, there = _tfrecord_source(source, name, given)
    for prepared in found_anywhere(source, there):
        if "array_record" in prepared.formats:
            log(f"{source.set} is already prepared in {prepared.folder}.")
            return prepared.folder
    target = target_folder(source).joinpath(*filter(None, there))
    if target.exists():
        raise UserError(f"{target} holds other files already: name another folder with --config.source.dir=FOLDER")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The folder gets its name when all is in it: what was interrupted is never taken for whole.
    temporary = Path(tempfile.mkdtemp(prefix="incomplete.", suffix=f"_{target.name}", dir=target.parent))
    try:
        temporary.chmod(0o755)
        shards = _shards(given)
        for i, (old, new, length) in enumerate(shards, 1):
            log(f"{old} -> {new} ({i} of {len(shards)})")
            copy_shard(given / old, temporary / new, length)
        examples = {old for old, _, _ in shards}
        for file in given.iterdir():
            if file.is_file() and file.name not in examples | {INFO_FILE}:
                shutil.copyfile(file, temporary / file.name)
        info = read_metadata(given / INFO_FILE) | dict(fileFormat="array_record")
        info.pop("alternativeFileFormats", None)
        (temporary / INFO_FILE).write_text(json.dumps(info, indent=2))
        temporary.rename(target)
        default = given.parents[1] / CONFIG_FILE  # beside the configs: which of them a bare name means
        if there.config and default.is_file() and not (target.parents[1] / CONFIG_FILE).exists():
            (target.parents[1] / CONFIG_FILE).parent.mkdir(exist_ok=True)
            shutil.copyfile(default, target.parents[1] / CONFIG_FILE)
    except OSError as error:
        raise RunError(f"{given} cannot be converted: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log(f"{source.set} is now prepared in {target}.")
    return target


def _tfrecord_source(source, name: Name, given: Path) -> tuple[Path, Name]:
    """The folder of the set's TFRecord version at or below `given`, and the full name of what lies there."""
    found = [prepared_at(given)] if (given / INFO_FILE).is_file() else prepared_versions(name, given)
    if not found:
        raise UserError(f"{given} holds no {source.set}: there is no {INFO_FILE} in it, and no {name.name}/VERSION/.")
    folder, formats = next((p for p in found if "tfrecord" in p.formats), found[0])
    if "tfrecord" not in formats:
        raise UserError(f"{folder} holds {', '.join(sorted(formats))}: only TFRecord can be converted.")
    info = read_metadata(folder / INFO_FILE)
    there = Name(info["name"], info.get("configName"), info["version"])
    if there.name != name.name or (name.config or there.config) != there.config:
        raise UserError(f"{folder} holds {'/'.join(filter(None, there[:2]))}, not {source.set}.")
    return folder, there


def _shards(given: Path) -> list[tuple[str, str, int]]:
    """(name, name as ArrayRecord, number of examples) of every file of examples in a version's folder."""
    import tensorflow_datasets as tfds

    shards = []
    for split in tfds.builder_from_directory(str(given)).info.splits.values():
        count = split.num_shards
        old, new = (split.filename_template.replace(filetype_suffix=suffix) for suffix in ("tfrecord", "array_record"))
        for i, length in enumerate(split.shard_lengths):
            names = (t.sharded_filepath(shard_index=i, num_shards=count).name for t in (old, new))
            shards.append((*names, length))
    return shards

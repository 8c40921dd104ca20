"""How sets of tfds get prepared: built by tfds, or converted from TFRecord."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cnnjax import config
from cnnjax.cache import cache_dir
from cnnjax.data.tfds_folders import (
    CONFIG_FILE,
    INFO_FILE,
    Name,
    first_line,
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
from cnnjax.errors import RunError, UserError


def prepare(data: config.Data, source_dir: str = "", log: Callable[[str], None] = print) -> Path:
    """Makes the set that `data` names ready for reading, and returns its folder.

    Args:
      source_dir: where the set lies prepared as TFRecord: its version's folder, or a data_dir that holds it.
        Empty: tfds downloads and builds it, which needs TensorFlow.

    Raises:
      UserError: an unknown name, nothing to convert, or TensorFlow is missing.
      RunError: the source is damaged, or tfds failed.
    """
    if data.name == "folder":
        raise UserError("A folder of pictures needs no preparation: train on it with --config.data.data_dir=FOLDER")
    if data.name == "digit_pairs":
        raise UserError("digit_pairs is made while it is read: it needs no preparation.")
    name = parse_name(data.name)
    if name.name == "digits":
        from cnnjax.data import digits

        there = digits.is_prepared(cache_dir("tfds"))
        folder = digits.version_folder(digits.ensure_digits())
        log(f"digits {'is already' if there else 'is now'} prepared in {folder}.")
        return folder
    return _convert(data, name, Path(source_dir).expanduser(), log) if source_dir else _build(data, name, log)


def _build(data: config.Data, name: Name, log: Callable[[str], None]) -> Path:
    """Lets tfds build a set."""
    if folder := readable_folder(data, name):
        log(f"{data.name} is already prepared in {folder}.")
        return folder
    require_known(name.name)
    missing = [m for m in ("tensorflow", "importlib_resources") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError(
            f"To build {data.name}, tfds needs {' and '.join(missing)}: pip install -r requirements-prepare.txt\n"
            "Or convert a TFRecord preparation from elsewhere: python run.py prepare --config=... --from=FOLDER"
        )
    import tensorflow_datasets as tfds

    target = target_folder(data)
    try:
        builder = tfds.builder(data.name, data_dir=str(target), file_format="array_record")
    except Exception as error:
        raise UserError(f"tfds cannot build {data.name}: {first_line(error)}") from error
    manual = target / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (manual.is_dir() and any(manual.iterdir())):
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise UserError(f"{data.name} must be downloaded by hand into {manual}, then prepared again. {instructions}")
    log(f"Building {data.name} in {target}.")
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever one of hundreds of builders may raise, on top of the network and the disk
        raise RunError(f"tfds could not build {data.name}: {first_line(error)}") from error
    folder = Path(builder.data_dir)
    log(f"{data.name} is now prepared in {folder}.")
    return folder


def _convert(data: config.Data, name: Name, source: Path, log: Callable[[str], None]) -> Path:
    """Copies a TFRecord preparation to ArrayRecord: the records, serialised tf.train.Examples, are the same in both."""
    source, there = _tfrecord_source(data, name, source)
    for prepared in found_anywhere(data, there):
        if "array_record" in prepared.formats:
            log(f"{data.name} is already prepared in {prepared.folder}.")
            return prepared.folder
    target = target_folder(data).joinpath(*filter(None, there))
    if target.exists():
        raise UserError(f"{target} holds other files already: name another folder with --config.data.data_dir=FOLDER")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The folder gets its name when all is in it: what was interrupted is never taken for whole.
    temporary = Path(tempfile.mkdtemp(prefix="incomplete.", suffix=f"_{target.name}", dir=target.parent))
    try:
        temporary.chmod(0o755)
        shards = _shards(source)
        for i, (old, new, length) in enumerate(shards, 1):
            log(f"{old} -> {new} ({i} of {len(shards)})")
            copy_shard(source / old, temporary / new, length)
        examples = {old for old, _, _ in shards}
        for file in source.iterdir():
            if file.is_file() and file.name not in examples | {INFO_FILE}:
                shutil.copyfile(file, temporary / file.name)
        info = read_metadata(source / INFO_FILE) | dict(fileFormat="array_record")
        info.pop("alternativeFileFormats", None)
        (temporary / INFO_FILE).write_text(json.dumps(info, indent=2))
        temporary.rename(target)
        default = source.parents[1] / CONFIG_FILE  # beside the configs: which of them a bare name means
        if there.config and default.is_file() and not (target.parents[1] / CONFIG_FILE).exists():
            (target.parents[1] / CONFIG_FILE).parent.mkdir(exist_ok=True)
            shutil.copyfile(default, target.parents[1] / CONFIG_FILE)
    except OSError as error:
        raise RunError(f"{source} cannot be converted: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log(f"{data.name} is now prepared in {target}.")
    return target


def _tfrecord_source(data: config.Data, name: Name, source: Path) -> tuple[Path, Name]:
    """The folder of the set's TFRecord version at or below `source`, and the full name of what lies there."""
    found = [prepared_at(source)] if (source / INFO_FILE).is_file() else prepared_versions(name, source)
    if not found:
        raise UserError(f"{source} holds no {data.name}: there is no {INFO_FILE} in it, and no {name.name}/VERSION/.")
    folder, formats = next((p for p in found if "tfrecord" in p.formats), found[0])
    if "tfrecord" not in formats:
        raise UserError(f"{folder} holds {', '.join(sorted(formats))}: only TFRecord can be converted.")
    info = read_metadata(folder / INFO_FILE)
    there = Name(info["name"], info.get("configName"), info["version"])
    if there.name != name.name or (name.config or there.config) != there.config:
        raise UserError(f"{folder} holds {'/'.join(filter(None, there[:2]))}, not {data.name}.")
    return folder, there


def _shards(source: Path) -> list[tuple[str, str, int]]:
    """(name, name as ArrayRecord, number of examples) of every file of examples in a version's folder."""
    import tensorflow_datasets as tfds

    shards = []
    for split in tfds.builder_from_directory(str(source)).info.splits.values():
        count = split.num_shards
        old, new = (split.filename_template.replace(filetype_suffix=suffix) for suffix in ("tfrecord", "array_record"))
        for i, length in enumerate(split.shard_lengths):
            names = (t.sharded_filepath(shard_index=i, num_shards=count).name for t in (old, new))
            shards.append((*names, length))
    return shards

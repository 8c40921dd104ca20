"""Where prepared sets of tfds lie, and how they get there: built by tfds, or converted from TFRecord."""

import functools
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax import config
from cnnjax.cache import cache_dir
from cnnjax.errors import RunError, UserError
from cnnjax.knobs import nearest

INFO_FILE = "dataset_info.json"
CONFIG_FILE = ".config/metadata.json"
BLOCK_BYTES = 2**26  # records are copied in blocks of about this size...
BLOCK_RECORDS = 64  # ...and of no fewer, so that their checksums are worked out side by side


def first_line(error: Exception) -> str:
    """'ValueError: what was wrong', on one line whatever the message is like."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class Name(NamedTuple):
    """'set/config:version' taken apart; None where it says nothing."""

    name: str
    config: str | None
    version: str | None


class Prepared(NamedTuple):
    """A version's folder, and the formats its examples are stored in ('array_record', 'tfrecord', ...)."""

    folder: Path
    formats: frozenset[str]


def _parsed(text: str) -> Name:
    """Takes a set's name apart, or raises UserError."""
    from tensorflow_datasets.core import naming

    try:
        name, kwargs = naming.parse_builder_name_kwargs(text)
    except ValueError:
        name, kwargs = None, {}
    if name is None or name.namespace or not kwargs.keys() <= {"config", "version"}:
        raise UserError(
            f"config.data.name: {text!r} is no data set's name.{_nearest_set(text)}\n"
            "Write digits, folder, or as tfds does: name, name/config, name:3.0.1."
        )
    return Name(name.name, kwargs.get("config"), kwargs.get("version"))


def _require_known(name: str) -> None:
    """Raises UserError, with the nearest name, where tfds knows no such set."""
    if name not in _known_sets():
        raise UserError(f"config.data.name: there is no data set {name!r}.{_nearest_set(name)}")


def _known_sets() -> list[str]:
    import tensorflow_datasets as tfds

    return ["digits", "folder", *tfds.list_builders(with_community_datasets=False)]  # the community's need a network


def _nearest_set(name: str) -> str:
    return nearest(name, _known_sets())


def _target(data: config.Data) -> Path:
    """The data_dir that sets are prepared into."""
    given = data.data_dir or os.environ.get("CNNJAX_DATA_DIR")
    return Path(given).expanduser() if given else cache_dir("tfds")


def _search_folders(data: config.Data) -> list[Path]:
    """The data_dirs that are searched for prepared sets, first things first."""
    target = _target(data)
    folders = [target] if target == cache_dir("tfds") else [target, target / "tfds"]
    folders += [Path(f).expanduser() for f in (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets") if f]
    return list(dict.fromkeys(folders))


def _versions(name: Name, folder: Path) -> list[Prepared]:
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
    return [_prepared(root / str(v)) for v in reversed(fitting) if (root / str(v) / INFO_FILE).is_file()]


def _config(name: str, root: Path) -> str | None:
    """The config that a bare name means: the default one, else the only one that is there."""
    found = sorted({path.parents[1].name for path in root.glob(f"*/*/{INFO_FILE}")})
    metadata = root / CONFIG_FILE
    default = _json(metadata).get("default_config_name") if metadata.is_file() else None
    if default in found:
        return default
    if len(found) > 1:
        raise UserError(f"config.data.name: {name} is there as {', '.join(f'{name}/{c}' for c in found)}; say which.")
    return found[0] if found else None


def _json(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}. Prepare the set again.") from error


def _prepared(folder: Path) -> Prepared:
    info = _json(folder / INFO_FILE)
    return Prepared(folder, frozenset([info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", ())]))


def find(data: config.Data) -> Path:
    """The folder of the newest version, in ArrayRecord, of the set that `data` names.

    Raises:
      UserError: there is none; the message says where was looked, and how to prepare it.
    """
    name = _parsed(data.name)
    if folder := _readable(data, name):
        return folder
    others = [p.folder.name for p in _found(data, name._replace(version=None))]
    if not others:
        _require_known(name.name)
    state = f"has other versions ({', '.join(others)})" if others else "is not prepared"
    raise UserError(
        f"{data.name} {state} in {', '.join(map(str, _search_folders(data)))}.\n"
        "Prepare it: python run.py prepare --config=...; or say where it lies: --config.data.data_dir=FOLDER"
    )


def _found(data: config.Data, name: Name) -> list[Prepared]:
    return [prepared for folder in _search_folders(data) for prepared in _versions(name, folder)]


def _readable(data: config.Data, name: Name) -> Path | None:
    """The first folder that holds the set as ArrayRecord; UserError where there are only other formats."""
    found = _found(data, name)
    for prepared in found:
        if "array_record" in prepared.formats:
            return prepared.folder
    if not found:
        return None
    folder, formats = found[0]
    raise UserError(
        f"{data.name} is prepared in {folder} as {', '.join(sorted(formats))}; ArrayRecord is needed.\n"
        f"Convert it: python run.py prepare --config=... --from={folder}"
    )


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
    name = _parsed(data.name)
    if name.name == "digits":
        from cnnjax.data import digits

        there = digits.is_prepared(cache_dir("tfds"))
        folder = digits.version_folder(digits.ensure_digits())
        log(f"digits {'is already' if there else 'is now'} prepared in {folder}.")
        return folder
    return _convert(data, name, Path(source_dir).expanduser(), log) if source_dir else _build(data, name, log)


def _build(data: config.Data, name: Name, log: Callable[[str], None]) -> Path:
    """Lets tfds build a set."""
    if folder := _readable(data, name):
        log(f"{data.name} is already prepared in {folder}.")
        return folder
    _require_known(name.name)
    missing = [m for m in ("tensorflow", "importlib_resources") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError(
            f"To build {data.name}, tfds needs {' and '.join(missing)}: pip install -r requirements-prepare.txt\n"
            "Or convert a TFRecord preparation from elsewhere: python run.py prepare --config=... --from=FOLDER"
        )
    import tensorflow_datasets as tfds

    target = _target(data)
    try:
        builder = tfds.builder(data.name, data_dir=str(target), file_format="array_record")
    except Exception as error:
        raise UserError(f"tfds cannot build {data.name}: {first_line(error)}") from error
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
    for prepared in _found(data, there):
        if "array_record" in prepared.formats:
            log(f"{data.name} is already prepared in {prepared.folder}.")
            return prepared.folder
    target = _target(data).joinpath(*filter(None, there))
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
        info = _json(source / INFO_FILE) | dict(fileFormat="array_record")
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
    found = [_prepared(source)] if (source / INFO_FILE).is_file() else _versions(name, source)
    if not found:
        raise UserError(f"{source} holds no {data.name}: there is no {INFO_FILE} in it, and no {name.name}/VERSION/.")
    folder, formats = next((p for p in found if "tfrecord" in p.formats), found[0])
    if "tfrecord" not in formats:
        raise UserError(f"{folder} holds {', '.join(sorted(formats))}: only TFRecord can be converted.")
    info = _json(folder / INFO_FILE)
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


def copy_shard(source: Path, target: Path, length: int) -> None:
    """Copies the `length` records of a TFRecord file into a new ArrayRecord file, checking every checksum.

    Raises:
      RunError: the file is damaged, cut off, or holds another number of records.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, count = ArrayRecordWriter(str(target), "group_size:1"), 0  # as tfds writes: each record can be read alone
    for block in read_tfrecords(source):
        for record in block:
            writer.write(record)
        count += len(block)
    writer.close()
    if count != length:
        raise RunError(f"{source} holds {count} examples; {INFO_FILE} says {length}.")


def read_tfrecords(path: Path) -> Iterator[list[bytes]]:
    """The records of a TFRecord file, in blocks.

    A record is its length (uint64), the length's checksum (uint32), the data, the data's checksum; little-endian.

    Raises:
      RunError: the file ends within a record, or a checksum is wrong.
    """
    left, block, longest = path.stat().st_size, [], 0
    with open(path, "rb") as file:
        while left:
            head = file.read(12)
            size = int.from_bytes(head[:8], "little")
            left -= size + 16
            if left < 0:
                raise RunError(f"{path} is damaged or cut off: its last record has no end.")
            block.append((head, file.read(size), file.read(4)))
            longest = max(longest, size)
            if not left or (len(block) >= BLOCK_RECORDS and len(block) * longest >= BLOCK_BYTES):
                heads, records, checks = zip(*block, strict=True)
                stored = np.frombuffer(b"".join([*(h[8:] for h in heads), *checks]), "<u4")
                if (_masked(np.concatenate([crc32c([h[:8] for h in heads]), crc32c(records)])) != stored).any():
                    raise RunError(f"{path} is damaged: a record does not fit its checksum.")
                yield list(records)
                block, longest = [], 0


def _masked(crc: np.ndarray) -> np.ndarray:
    """What TFRecord stores for a checksum [n] uint32, so that a checksum over checksums works too."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


@functools.cache
def _crc_table() -> np.ndarray:
    """[256] uint32: what a byte does to CRC-32C (Castagnoli, bits reversed)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """CRC-32C of each message -> [n] uint32. All messages at once, byte by byte: some 50 MB/s without compiled code."""
    lengths = np.array([len(m) for m in messages])
    order = np.argsort(-lengths, kind="stable")  # longest first, so that those still running are always the first ones
    longest = lengths.max(initial=0)
    rows = np.zeros((len(messages), longest), np.uint8)
    for row, i in enumerate(order):
        rows[row, : lengths[i]] = np.frombuffer(messages[i], np.uint8)
    running = np.searchsorted(-lengths[order], -np.arange(longest))
    table, crc = _crc_table(), np.full(len(messages), 0xFFFFFFFF, np.uint32)
    for column, n in zip(rows.T.copy(), running, strict=True):
        crc[:n] = table[(crc[:n] ^ column[:n]) & 0xFF] ^ (crc[:n] >> 8)
    result = np.empty_like(crc)
    result[order] = ~crc
    return result

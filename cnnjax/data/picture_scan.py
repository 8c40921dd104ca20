"""Finding picture files, and decoding each of them once to know its size and whether it can be read."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL

from cnnjax.cache import cache_dir
from cnnjax.errors import Unreadable, UserError
from cnnjax.inputs.images import decoding
from cnnjax.storage import written_whole

READER = f"1, Pillow {PIL.__version__}"  # what has been remembered by another reader is not believed

Entry = list  # [size, time of change (ns), *Found], as JSON keeps it


class Found(NamedTuple):
    """What is known of a picture that can be read."""

    sha256: str  # of the file
    height: int  # upright
    width: int
    channels: int  # 1 or 3


def scan(root: Path, files: Sequence[str]) -> tuple[dict[str, Found], dict[str, str]]:
    """Decodes pictures in a pool of threads -> ({path: Found}, {path: what is wrong with it}), in the order given.

    `files` are paths inside root. What could be read is remembered by (path, size, time of change), so a second scan
    decodes new and changed files only. Where the memory cannot be read or written, it takes longer, no more.
    """
    remembered = _remembered(root)
    entries = {path: remembered[path] for path in files if path in remembered}
    found, faults = {}, {}
    try:
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(files), 1024):  # in blocks, so that an interrupt takes effect soon
                block = files[start : start + 1024]
                looks = pool.map(lambda path: _look(root / path, entries.get(path)), block)
                for path, look in zip(block, looks, strict=True):
                    if isinstance(look, str):
                        faults[path] = look
                    else:
                        entries[path] = look
                        found[path] = Found(*look[2:])
    finally:  # what an interrupted scan found is kept too
        if entries != remembered:
            _remember(root, entries)
    return found, faults


def list_pictures(paths: Iterable[str | os.PathLike], endings: tuple[str, ...] = ()) -> list[Path]:
    """Files as they are given, whatever their suffix; folders as the pictures anywhere in them, sorted.

    Args:
      endings: of names that are no pictures where one of the same name without it is there: ("_mask",).

    Raises:
      UserError: a path that does not exist, or a folder without pictures.
    """
    listed = []
    for path in (Path(one).expanduser() for one in paths):
        if not path.exists():
            raise UserError(f"There is no file or folder {path}.")
        inside = [path / name for name in _without(endings, pictures_in(path)[0])] if path.is_dir() else [path]
        if not inside:
            raise UserError(f"There are no pictures ({', '.join(decoding.SUFFIXES)}) in {path}.")
        listed += inside
    return listed


def _without(endings: tuple[str, ...], names: list[str]) -> list[str]:
    plain = {name: os.path.splitext(name)[0] for name in names}
    there = set(plain.values())
    made = lambda stem: any(stem.lower().endswith(end) and stem[: -len(end)] in there for end in endings)
    return [name for name in names if not made(plain[name])]


def pictures_in(folder: Path, above: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """The sorted paths, inside a folder, of the pictures at any depth, and how many other files there are."""
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that it lies in
        return [], 0
    folders, files = listing(folder)
    paths = [name for name in files if name.lower().endswith(decoding.SUFFIXES)]
    others = len(files) - len(paths)
    for name in folders:
        inside, more = pictures_in(folder / name, (*above, here))
        paths += [f"{name}/{path}" for path in inside]
        others += more
    return sorted(paths), others


def listing(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of the folders and of the files in a folder, links followed, hidden ones left out."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":  # the latter: resource forks, in zip files
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file() or entry.is_symlink():  # a broken link is not passed over in silence
                    files.append(entry.name)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    return sorted(folders), sorted(files)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _look(path: Path, entry: Entry | None) -> Entry | str:
    """The entry of a picture (the given one, where the file is still the same), or what is wrong with it."""
    try:
        stat = path.stat()
        key = [stat.st_size, stat.st_mtime_ns]
        if entry and entry[:2] == key:
            return entry
        data = decoding.content(path)
        return [*key, hashlib.sha256(data).hexdigest(), *decoding.probe(io.BytesIO(data))]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except Unreadable as error:
        return str(error)


def _memory(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    return cache_dir("folders") / f"{name}.json"


def _remembered(root: Path) -> dict[str, Entry]:
    """The entries of an earlier scan; none where they are missing, damaged or of another reader."""
    try:
        stored = json.loads(_memory(root).read_text())
        entries = stored["files"] if stored["reader"] == READER else {}
        kinds = [int, int, str, int, int, int]
        return {path: entry for path, entry in entries.items() if [type(value) for value in entry] == kinds}
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _remember(root: Path, entries: dict[str, Entry]) -> None:
    try:
        path = _memory(root)
        known = {"reader": READER, "folder": os.path.realpath(root), "files": entries}
        with written_whole(path) as file:  # another run may be reading it
            file.write(json.dumps(known).encode())
    except (UserError, OSError):
        pass

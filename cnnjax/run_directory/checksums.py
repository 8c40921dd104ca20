"""SHA-256 of every file of a folder, in the form that `sha256sum --check` reads."""

import hashlib
import os
from pathlib import Path

MANIFEST = "SHA256SUMS"


def write(folder: Path) -> None:
    """Writes the checksums of all files below a folder into its SHA256SUMS, and waits until the disk has all of them."""
    lines = [f"{_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    (folder / MANIFEST).write_text("".join(lines))
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def damage(folder: Path) -> str | None:
    """What is wrong with a folder whose checksums were written: a file missing, too many or altered; None if nothing is."""
    try:
        lines = (folder / MANIFEST).read_text(errors="replace").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for name in sorted(expected.keys() | there.keys()):
            if name not in there:
                return f"{name} is missing"
            if name not in expected:
                return f"{name} does not belong to it"
            if _sum(there[name]) != expected[name]:
                return f"{name} was altered or cut off (its SHA-256 differs)"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except ValueError:
        return f"{MANIFEST} was altered"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None if expected else f"{MANIFEST} is empty"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

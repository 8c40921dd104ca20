"""What the verbs ask of a command line: an experiment, or a run and what may be changed in it; a folder to write to."""

import os
from pathlib import Path

from cnnjax.errors import UserError


def required(line, verb: str):
    if line.config is None:
        raise UserError(f"Say which experiment: python run.py {verb} --config=experiments/NAME.py")
    return line.config


def no_arguments(line) -> None:
    if line.arguments:
        raise UserError(f"Not understood: {' '.join(line.arguments)!r}. Flags are written --name=value.")


def config_of_run(flags: dict, classes: tuple[type, ...] = ()):
    """The configuration that a run directory holds. `classes`: of the file of a run with options of its own."""
    from cnnjax import serialization
    from cnnjax.run_directory import records

    if not flags.get("workdir"):
        raise UserError("Say which run: --workdir=DIR, the folder that `python run.py train` made.")
    workdir = Path(flags["workdir"]).expanduser()
    records.require_run(workdir)
    return serialization.from_json(records.read_json(workdir / "config.json"), classes, workdir / records.CODE)


def config_of_model(flags: dict, classes: tuple[type, ...] = ()):
    """The configuration of a network alone."""
    from cnnjax import serialization

    if not flags.get("model"):
        raise UserError("Say which network: --model=NAME, or --config=experiments/NAME.py.")
    return serialization.new_config(model=flags["model"])


def require_file_is_needed(line) -> None:
    """Raises UserError where --config names a file beside a run that has no options of its own to be found there."""
    if not (line.flags["config"] and line.flags["workdir"]):
        return
    from cnnjax.run_directory import records

    values = records.read_json(Path(line.flags["workdir"]).expanduser() / "config.json")
    if not any("class" in value for value in values.values() if isinstance(value, dict)):
        raise UserError("--config is for training; the run in --workdir has its own.")


def only_changes(line, names: tuple[str, ...]) -> None:
    """After training only machine knobs, and those of the given names, can still be changed; `source`: all of it."""
    from cnnjax import knobs, serialization

    if not line.flags["workdir"]:
        raise UserError("Say which run: --workdir=DIR, the folder that `python run.py train` made.")
    require_file_is_needed(line)
    free = lambda name: name in names or name.partition(".")[0] in names
    kinds = {choice: knobs.IDENTITY for choice in serialization.CHOICES} | {
        k.name: k.kind for k in knobs.walk(line.config)
    }
    for name in line.overrides:
        if kinds[name] == knobs.IDENTITY and not free(name):
            raise UserError(f"config.{name} belongs to the trained run and cannot be changed now.")


def kernels(line) -> str:
    """Those that are asked for now: the run may have been trained on another machine."""
    return line.config.kernels if "kernels" in line.overrides else "auto"


def make_writable(folder: Path, flag: str) -> None:
    """Makes a folder, before hours are spent on what is to be written there. Raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(f"{flag}={folder} cannot be made or written to: give another folder.")

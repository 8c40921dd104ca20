"""What happens in a run directory before the first step: is it ours, is it the same run, and where does it go on."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnnjax import foreign, knobs, processes, serialization
from cnnjax.errors import UserError
from cnnjax.experiment import Experiment
from cnnjax.run_directory import checkpoint, lock, records
from cnnjax.run_directory.records import DatasetRecord

SEEN_SECONDS = 20.0  # in which a network's file system shows a host what another one has written


def make_folder(workdir: Path) -> None:
    """Makes a run directory where there is none. Raises UserError where it cannot be made."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: give a folder.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}.") from None


def require_same_config(config) -> None:
    """Raises UserError where a process was started with other knobs than process 0, naming them."""
    ours, classes = serialization.to_json(config), serialization.foreign_classes(config).values()
    main = processes.by_main(lambda: ours)
    for kind in (knobs.IDENTITY, knobs.MACHINE):
        if different := serialization.differences(main, json.loads(json.dumps(ours)), kind, classes):
            shown = "; ".join(f"config.{name} is {there!r} there, {here!r} here" for name, there, here in different)
            raise UserError(f"This process was started with another configuration than process 0: {shown}.")


@contextlib.contextmanager
def taken(workdir: Path) -> Iterator[None]:
    """Makes a run directory where there is none, and holds its lock; of several processes the main one does.

    Raises:
      UserError: it cannot be made or written to, is in use, or is not the same one for all processes.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_main():
            make_folder(workdir)
            stack.enter_context(lock.held(workdir))
        holder = processes.by_main(lambda: lock.holder(workdir))
        end = time.monotonic() + SEEN_SECONDS
        while lock.holder(workdir) != holder:
            if time.monotonic() > end:
                raise UserError(
                    f"--workdir={workdir} is not the folder that process 0 has: give one that all hosts share."
                )
            time.sleep(0.2)
        yield


def known_data(workdir: Path) -> DatasetRecord | None:
    """What a run in a directory remembers of its data; None where there is no run yet."""
    if records.is_run(workdir) and checkpoint.exist(workdir) and (workdir / "dataset.json").exists():
        return records.read_dataset(workdir)
    return None


def changed_knobs(workdir: Path, exp: Experiment) -> dict[str, Any]:
    """The machine knobs that differ from the run in a directory, {name: [old, new]}; {} where there is none yet.

    Raises:
      UserError: the directory holds a run whose identity or data differ, naming each knob and both values.
    """
    if not checkpoint.exist(workdir):  # one that never got so far may be begun anew
        return {}
    if not records.is_run(workdir):
        raise UserError(f"{workdir} holds checkpoints, but no config.json: put it back, or give another --workdir.")
    before, now = records.read_json(workdir / "config.json"), serialization.to_json(exp.config)
    classes = serialization.foreign_classes(exp.config).values()
    if different := serialization.differences(before, now, knobs.IDENTITY, classes):
        shown = "; ".join(f"config.{name} was {old!r}, now {new!r}" for name, old, new in different)
        raise UserError(f"{workdir} holds a run with another configuration: {shown}. Give another --workdir.")
    record = records.read_dataset(workdir)
    if record.fingerprint not in exp.fingerprints:
        raise UserError(
            f"{workdir} holds a run on other data: {record.name} has changed since. Give another --workdir."
        )
    machine = serialization.differences(before, now, knobs.MACHINE, classes)
    return {f"config.{name}": [old, new] for name, old, new in machine} | serialization.changed_files(before, now)


def write_records(
    workdir: Path, exp: Experiment, step: int, changed: dict[str, Any], log: Callable[[str], None]
) -> None:
    """Writes what a run directory says about its run, this start included."""
    if changed:
        shown = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        log(f"Changed since the last start (in environment.json): {shown}.")
    records.add_start(workdir, step, changed)
    records.write_dataset(workdir, exp.record)
    foreign.copy_files(serialization.foreign_classes(exp.config).values(), workdir / records.CODE, step)
    records.write_json(workdir / "config.json", serialization.to_json(exp.config))


def complete(exp: Experiment, workdir: Path, newest: int | None) -> dict[str, Any] | None:
    """The summary of a run that has reached its end, or stopped early; else None. One that is damaged is made again."""
    try:
        summary = json.loads((workdir / "summary.json").read_text())
        if exp.test is not None:
            exp.network.task.summary_lines(summary)
        ended = newest is not None and (newest >= exp.total_steps or summary["stopped_early"])
        return summary if ended and summary["steps"] == newest else None  # an older one is of a run since lengthened
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

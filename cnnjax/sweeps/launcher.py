"""Where the trials of a sweep run: on this machine, or on a cluster."""

from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.sweeps import local, slurm


def launcher_of(flags: dict[str, str | None], folder: Path):
    """A launcher from the flags of `sweep`; `folder` is the sweep's.

    Raises:
      UserError: a number that is none, a flag that does not belong to the launcher, or what `Slurm` refuses.
    """
    numbers = {}
    for name in ("parallel", "minutes", "gpus", "cpus", "requeues"):
        if flags[name] is not None:
            if not (flags[name].isascii() and flags[name].isdigit()):
                raise UserError(f"--{name} must be a whole number, not {flags[name]!r}.")
            numbers[name] = int(flags[name])
    if numbers.get("minutes") == 0:
        raise UserError("--minutes must be at least 1.")
    if flags["launcher"] == "slurm":
        return slurm.Slurm(folder, partition=flags["partition"] or "", **numbers)
    for name in ("partition", "minutes", "gpus", "cpus", "requeues"):
        if flags[name] is not None:
            raise UserError(f"--{name} is for --launcher=slurm.")
    return local.Local(**numbers)

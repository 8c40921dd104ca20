"""Runs what is missing of a sweep, and shows how it goes."""

import time
from collections.abc import Callable
from pathlib import Path

from cnnjax.errors import Interrupted, RunError
from cnnjax.run_directory import lock, records
from cnnjax.sweeps import ablation
from cnnjax.sweeps.ablation import Sweep, Trial
from cnnjax.sweeps.status import DONE, FAILED, QUEUED, RUNNING, STOPPED, WAITING, Status, require_same, status_of
from cnnjax.training.interruption import watched

LOOK_SECONDS = 0.5
LINE_SECONDS = 30.0  # without a terminal, what runs is told no more often than this
FOLDER_FILE = "sweep.json"


def drive(
    sweep: Sweep,
    folder: Path,
    launcher,
    log: Callable[[str], None] = print,
    show: Callable[[list[str]], None] | None = None,
) -> dict[str, Status]:
    """Runs every trial that is not done, each at most once, and returns how all of them stand, by name.

    Trials that another driver left running, or in Slurm's queue, are adopted. What failed before is tried again.

    Args:
      launcher: `launch(waiting, busy) -> started`, `holds(trial)`, `note(trial)`, `stop(busy)`: see `local.Local`.
      log: prints a line: of each trial whose state is another, and now and then of those that run.
      show: instead, is given the whole table whenever it is another.

    Raises:
      UserError: the sweep, or the folder, does not do; another driver is at it.
      Interrupted: a signal came.
    """
    trials = ablation.trials(sweep, folder)
    require_same(trials, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tried: set[Path] = set()
    with lock.held(folder), watched() as asked:
        records.write_json(folder / FOLDER_FILE, ablation.to_json(sweep, trials))
        shown, told, drawn = {}, time.monotonic(), []
        while True:
            found = {trial.folder: _status(trial, sweep.score, launcher) for trial in trials}
            busy = [t for t in trials if found[t.folder].state in (RUNNING, QUEUED)]
            ended = tried | {t.folder for t in busy} | {f for f, status in found.items() if status.state == DONE}
            todo = [t for t in trials if t.folder not in ended]
            if show:
                lines = table(trials, found, sweep.score)
                if lines != drawn:
                    show(lines)
                    drawn = lines
            else:
                shown = _tell_changes(trials, found, shown, tried, log)
                if time.monotonic() - told > LINE_SECONDS:
                    told = time.monotonic()
                    for trial in busy:
                        log(line(trial, found[trial.folder]))
            if asked.by or not (busy or todo):
                break
            tried |= {trial.folder for trial in (*launcher.launch(todo, busy), *busy)}
            time.sleep(LOOK_SECONDS)
        if asked.by:
            said = launcher.stop(busy)
            raise Interrupted(f"stopped by {asked.by}. {said}The same command goes on from there:")
    return {trial.name: found[trial.folder] for trial in trials}


def _status(trial: Trial, score: str, launcher) -> Status:
    """The state of a trial, as its folder and the launcher know it."""
    held = launcher.holds(trial)  # asked first: of a trial that ends meanwhile, the end is seen
    status = status_of(trial, score)
    if status.state not in (RUNNING, DONE) and held:
        return status._replace(state=QUEUED, error=launcher.note(trial))
    return status


def require_done(found: dict[str, Status]) -> None:
    """Raises RunError where a trial is not done."""
    failed = [name for name, status in found.items() if status.state != DONE]
    if failed:
        first = found[failed[0]]
        raise RunError(
            f"{len(failed)} of {len(found)} trials failed: {failed[0]}: {first.error}\nThe same command tries them again."
        )


def _tell_changes(trials: list[Trial], found, shown, tried, log) -> dict[Path, str]:
    """Says of each trial when its state is another; of one that was left failed before, only once it was tried."""
    now = {folder: status.state for folder, status in found.items()}
    for trial in trials:
        state, before = now[trial.folder], shown.get(trial.folder, WAITING)
        if state != before and (state in (RUNNING, QUEUED, DONE) or trial.folder in tried):
            log(line(trial, found[trial.folder]))
    return now


def line(trial: Trial, status: Status) -> str:
    """'base seed 0: running, 40 %, accuracy 0.98'."""
    parts = [status.state]
    if status.state in (RUNNING, STOPPED) and status.progress:
        parts.append(f"{status.progress:.0%}")
    if status.score is not None and status.state != FAILED:
        parts.append(f"{'' if status.state == DONE else 'best '}score {status.score:.4f}")
    if status.error:
        parts.append(status.error)
    return f"{trial.name}: {', '.join(parts)}"


def table(trials: list[Trial], found: dict[Path, Status], score: str) -> list[str]:
    """Every trial's state, progress and best score."""
    width = max(len(trial.name) for trial in trials)
    lines = [f"{'trial':{width}}  state    progress  {score}"]
    for trial in trials:
        status = found[trial.folder]
        best = "" if status.score is None else f"{status.score:.4f}"
        lines.append(
            f"{trial.name:{width}}  {status.state:7}  {status.progress:8.0%}  {best:8}  {status.error}".rstrip()
        )
    return lines

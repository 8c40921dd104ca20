"""How far each trial is, from what its run directory says."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax import knobs, serialization
from cnnjax.errors import UserError
from cnnjax.run_directory import checkpoint, records
from cnnjax.sweeps import trial as process
from cnnjax.sweeps.ablation import Trial
from cnnjax.training.logbook import read_entries

DONE, RUNNING, QUEUED, WAITING, FAILED, STOPPED = "done", "running", "queued", "waiting", "failed", "stopped"


class Status(NamedTuple):
    """A trial at this moment."""

    state: str
    step: int
    progress: float  # of all steps, 0 to 1
    score: float | None  # of the test where it is done, else the best of validation
    error: str


def status_of(trial: Trial, score: str) -> Status:
    """The state of a trial."""
    if process.is_held(trial.folder):
        return Status(RUNNING, *progress_of(trial, score), "")
    if (summary := finished(trial)) is not None:
        return Status(DONE, summary["steps"], 1.0, score_of(summary, score), "")
    outcome = process.outcome_of(trial.folder)
    done = progress_of(trial, score)
    if outcome is None:
        return Status(STOPPED if done[0] else WAITING, *done, "ended without a word" if done[0] else "")
    return Status(STOPPED if outcome["exit_code"] == 3 else FAILED, *done, str(outcome.get("error") or "no summary"))


def finished(trial: Trial) -> dict[str, Any] | None:
    """The summary of a trial that has reached its end; else None. A run of which more is asked now has not."""
    try:
        summary = json.loads((trial.folder / "summary.json").read_text())
        before = json.loads((trial.folder / "config.json").read_text())
        steps = [int(p.name) for p in (trial.folder / checkpoint.FOLDER).iterdir() if p.name.isdigit()]
    except (OSError, ValueError):
        return None
    longer = any(before.get(name) != getattr(trial.config, name) for name in ("epochs", "steps"))
    whole = isinstance(summary, dict) and summary.get("steps") in steps and summary["steps"] == max(steps)
    return summary if whole and not longer else None


def progress_of(trial: Trial, score: str) -> tuple[int, float, float | None]:
    """(step, part of all steps, best score of validation), from metrics.jsonl."""
    entries = read_entries(trial.folder)
    if not entries:
        return 0, 0.0, None
    last = entries[-1]
    total = trial.config.steps or (trial.config.epochs * last["step"] / last["epoch"] if last["epoch"] else 0)
    scores = [score_of(entry, score) for entry in entries if entry["split"] == "validation"]
    known = [value for value in scores if value is not None]
    best = (min if trial.config.task.scores.get(score) == "lower" else max)(known, default=None)
    return last["step"], min(1.0, last["step"] / total) if total else 0.0, best


def score_of(values: dict[str, Any], name: str) -> float | None:
    """The number under a dotted name; None where there is none."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return float(values) if isinstance(values, int | float) else None


def require_same(trials: list[Trial], folder: Path) -> None:
    """Raises UserError where a folder holds a single run, or trials of another sweep."""
    if records.is_run(folder):
        raise UserError(f"{folder} holds a single run: give the sweep a --workdir of its own.")
    for trial in trials:
        if not records.is_run(trial.folder) or not checkpoint.exist(trial.folder):
            continue
        before = records.read_json(trial.folder / "config.json")
        classes = serialization.foreign_classes(trial.config).values()
        different = serialization.differences(before, serialization.to_json(trial.config), knobs.IDENTITY, classes)
        if different:
            name, old, new = different[0]
            raise UserError(
                f"{folder} holds another sweep: of {trial.name}, config.{name} was {old!r}, now {new!r}. "
                "Give another --workdir."
            )

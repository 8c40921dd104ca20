"""What is due at a step of training: pure functions of the step, the clock, the signals and the scores."""

import math
from typing import NamedTuple

RETRY_SECONDS = 60.0  # after a save that failed


class Rules(NamedTuple):
    """What the configuration of a run says of its length, its evaluations and its checkpoints."""

    total_steps: int
    evaluate_every: int | None  # steps; None: there is no validation split
    save_seconds: float  # between two checkpoints; 0: one after each evaluation
    log_every: int  # steps
    early_stopping: int  # stop after so many evaluations without a better score; 0: never
    higher_is_better: bool  # of the score that the best checkpoint has


class Progress(NamedTuple):
    """Where a run stands between two steps."""

    step: int  # how many steps were made
    evaluated: bool  # whether the evaluation that may be due at this step was made
    scores: dict[str, float] | None  # of that evaluation, where it was made since the last step
    best: float | None  # the best score of all evaluations whose checkpoint was not lost
    saved_step: int | None  # the step of the newest checkpoint; None where the state or its scores have changed since
    save_at: float  # seconds of `time.monotonic()`: when the next checkpoint is due
    failures: int  # how many saves have failed
    stopping: bool  # whether early stopping ends the run


class Due(NamedTuple):
    """What is to be done before the next step, in this order."""

    evaluate: bool
    save: bool
    leave: bool


def is_time_to_save(rules: Rules, progress: Progress, now: float) -> bool:
    """Whether the clock asks for a checkpoint. It is saved when next the log is written."""
    return rules.save_seconds > 0 and now >= progress.save_at


def is_last(rules: Rules, progress: Progress) -> bool:
    """Whether all steps were made."""
    return progress.step >= rules.total_steps


def due(rules: Rules, progress: Progress, *, asked_to_stop: bool, asked_to_save: bool) -> Due:
    """What is due at a step, before anything is done there.

    Args:
      asked_to_stop: whether a signal came.
      asked_to_save: whether the clock of the main process asks for a checkpoint.
    """
    step, last = progress.step, is_last(rules, progress)
    leave = last or progress.stopping or asked_to_stop
    evaluates = rules.evaluate_every is not None and step > 0 and (moves_on(rules, step) or last)
    return Due(
        evaluate=evaluates and not progress.evaluated,
        save=leave or (asked_to_save and step % rules.log_every == 0),
        leave=leave,
    )


def moves_on(rules: Rules, step: int) -> bool:
    """Whether an evaluation at a step counts for the plateau schedule and early stopping.

    The one at the end of a run does not, where a longer run would pass that step by.
    """
    return rules.evaluate_every is not None and step % rules.evaluate_every == 0


def stops_early(rules: Rules, waited: int) -> bool:
    """Whether so many evaluations in turn without a better score end the run."""
    return bool(rules.early_stopping) and waited >= rules.early_stopping


def is_best(rules: Rules, progress: Progress, score: float) -> bool:
    """Whether no score was better. An equal one counts, so that the newest of equals is saved, whatever the clock says."""
    if not math.isfinite(score):
        return False
    if progress.best is None:
        return True
    return score >= progress.best if rules.higher_is_better else score <= progress.best


def after_evaluation(
    rules: Rules, progress: Progress, due: Due, scores: dict[str, float], score: float, waited: int
) -> tuple[Progress, Due]:
    """Where the run stands, and what is left to do, once validation was scored.

    Args:
      scores: of this evaluation; `score` is the one that the best checkpoint has.
      waited: how many evaluations in turn were no better.
    """
    best = is_best(rules, progress, score)
    stopping = stops_early(rules, waited)
    progress = progress._replace(
        evaluated=True, scores=scores, best=score if best else progress.best, saved_step=None, stopping=stopping
    )
    save = due.save or best or rules.save_seconds == 0 or stopping
    return progress, due._replace(save=save, leave=due.leave or stopping)


def after_interruption(due: Due) -> Due:
    """What is left to do where a signal ended an evaluation: to save the state as it was before, and to leave."""
    return due._replace(save=True, leave=True)


def after_save(rules: Rules, progress: Progress, now: float) -> Progress:
    """Where the run stands once a save has begun."""
    return progress._replace(saved_step=progress.step, save_at=now + rules.save_seconds)


def after_failed_saves(
    progress: Progress, *, failures: int, lost: int | None, best: float | None, now: float
) -> Progress:
    """Where the run stands once further saves are known to have failed: the score to beat is one that was saved.

    Args:
      failures: of all saves so far.
      lost: the step of the last save, where that one failed.
      best: the best score of the checkpoints that there are.
      now: seconds of `time.monotonic()`.
    """
    saved_step = None if progress.saved_step == lost else progress.saved_step
    save_at = min(progress.save_at, now + RETRY_SECONDS)
    return progress._replace(failures=failures, best=best, saved_step=saved_step, save_at=save_at)


def after_step(progress: Progress) -> Progress:
    """Where the run stands once the next step is under way."""
    return progress._replace(step=progress.step + 1, evaluated=False, scores=None)

"""The training loop: one for every task, model and layout."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from cnnjax import experiment, parallel, processes
from cnnjax.data import pipeline
from cnnjax.errors import Interrupted, RunError
from cnnjax.evaluation import eval_step_of, evaluate, evaluated_variables
from cnnjax.experiment import Experiment
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import decisions
from cnnjax.training.agreement import Agreement
from cnnjax.training.logbook import Logbook
from cnnjax.training.state import TrainState, after_evaluation, pack
from cnnjax.training.step import train_step_of


def train(
    exp: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    logbook: Logbook,
    agreed: Agreement,
    evaluated: bool,
) -> tuple[TrainState, int]:
    """Steps from `state.step` to the end, or to early stopping; all is then saved. Returns the last state and its step.

    What is due at a step is decided in `cnnjax/training/decisions.py`. The host reads the metrics of a step when the next
    one is under way: nothing is logged or saved before they are known to be finite.

    Args:
      agreed: whether a signal asked to stop.
      evaluated: whether the evaluation that may be due at this very step was made before it was saved.

    Raises:
      Interrupted: after the step under way, or within an evaluation, when all is saved.
    """
    layout, log_every = exp.layout, exp.config.log_every
    train_step = parallel.compile_train_step(layout, train_step_for(exp), state)
    score = _score_of_validation(exp, agreed.check)
    rules = _rules(exp)
    progress = _progress(rules, state, checkpoints, evaluated)
    pending, compiling = None, True  # metrics of the last step, which may not be computed yet
    with _train_batches(exp, progress.step, exp.total_steps) as batches:
        while True:
            agreed.look(due=decisions.is_time_to_save(rules, progress, time.monotonic()))
            due = decisions.due(rules, progress, asked_to_stop=bool(agreed.by), asked_to_save=agreed.due)
            if any(due):
                pending = _take(logbook, progress.step, pending, checkpoints, log_every)
            if due.evaluate or decisions.is_last(rules, progress):
                logbook.train(progress.step)
            if due.evaluate:
                try:
                    state, progress, due = _evaluate(exp, state, score, rules, progress, due, logbook)
                except Interrupted:  # saved as it was before the evaluation, which is made when the run goes on
                    due = decisions.after_interruption(due)
            checkpoints.poll()
            if checkpoints.failures != progress.failures:
                failed = dict(failures=checkpoints.failures, lost=checkpoints.lost, best=checkpoints.best_score())
                progress = decisions.after_failed_saves(progress, **failed, now=time.monotonic())
            if due.save and progress.saved_step != progress.step:
                _save(checkpoints, state, progress, logbook)
                progress = decisions.after_save(rules, progress, time.monotonic())
                agreed.forget_due()
            if due.leave:
                break
            if any(due):
                logbook.restart_clock()
            try:
                batch = next(batches)
            except Exception:
                if agreed.is_asked_here():  # the signal reached the reading workers too
                    continue
                raise
            state, metrics = train_step(state, batch)
            before, pending = pending, metrics
            _take(logbook, progress.step, before, checkpoints, log_every)
            progress = decisions.after_step(progress)
            if compiling:  # its time is not part of images/s
                pending = _take(logbook, progress.step, pending, checkpoints, log_every)
                logbook.compiled(progress.step)
                compiling = False
    evaluation_is_missing = due.evaluate and not progress.evaluated
    _end(exp, progress, checkpoints, logbook, agreed.by, evaluation_is_missing)
    return state, progress.step


def _rules(exp: Experiment) -> decisions.Rules:
    config = exp.config
    length = exp.steps_per_epoch if config.evaluate_unit == "epochs" else 1.0
    every = experiment.steps_between(config.evaluate_every, length)
    return decisions.Rules(
        total_steps=exp.total_steps,
        evaluate_every=None if exp.validation is None else every,
        save_seconds=config.checkpoint.every_minutes * 60,
        log_every=config.log_every,
        early_stopping=config.early_stopping,
        higher_is_better=experiment.higher_is_better(config),
    )


def _progress(
    rules: decisions.Rules, state: TrainState, checkpoints: Checkpoints, evaluated: bool
) -> decisions.Progress:
    """Where a run stands when it begins or goes on."""
    saved_step, best = processes.by_main(lambda: (checkpoints.newest(), checkpoints.best_score()))
    return decisions.Progress(
        step=int(jax.device_get(state.step)),
        evaluated=evaluated,
        scores=None,
        best=best,
        saved_step=saved_step,
        save_at=time.monotonic() + rules.save_seconds,
        failures=checkpoints.failures,
        stopping=decisions.stops_early(rules, int(jax.device_get(state.stopping.waited))),
    )


def _score_of_validation(exp: Experiment, check: Callable[[], None]) -> Callable[[TrainState], dict[str, float]]:
    """`score(state) -> scores`, whose step is compiled once. `check` may end it within an evaluation."""
    config, task = exp.config, exp.network.task
    step = parallel.compile_eval_step(exp.layout, eval_step_of(exp.network, config.matmul_precision, detailed=False))
    batch_size = experiment.eval_batch_size(config)

    def score(state: TrainState) -> dict[str, float]:
        variables = evaluated_variables(state.model_variables())
        return task.scores(evaluate(step, variables, exp.validation, exp.layout, batch_size, check=check))

    return score


def _evaluate(
    exp: Experiment,
    state: TrainState,
    score: Callable[[TrainState], dict[str, float]],
    rules: decisions.Rules,
    progress: decisions.Progress,
    due: decisions.Due,
    logbook: Logbook,
) -> tuple[TrainState, decisions.Progress, decisions.Due]:
    """Scores validation, and moves the plateau schedule and early stopping on."""
    schedule, scores = exp.config.schedule, score(state)
    metric = scores[exp.config.checkpoint.best_metric]
    best = decisions.is_best(rules, progress, metric)
    logbook.evaluation("validation", progress.step, scores, note="  (best)" if best else "")
    if decisions.moves_on(rules, progress.step):
        plateau, stopping = _moved_on(
            state.plateau,
            state.stopping,
            parallel.replicate(exp.layout, np.float32(metric)),
            plateau=schedule.name == "plateau",
            patience=schedule.patience,
            factor=schedule.factor,
            higher_is_better=rules.higher_is_better,
        )
        state = state.replace(plateau=plateau, stopping=stopping)
    waited = int(jax.device_get(state.stopping.waited))
    return state, *decisions.after_evaluation(rules, progress, due, scores, metric, waited)


_moved_on = jax.jit(after_evaluation, static_argnames=("plateau", "patience", "factor", "higher_is_better"))


def _save(checkpoints: Checkpoints, state: TrainState, progress: decisions.Progress, logbook: Logbook) -> None:
    record = dict(scores=progress.scores, evaluated=progress.evaluated, log=logbook.carried())
    with jax.transfer_guard("allow"):
        checkpoints.save(progress.step, *pack(state), record)


def _end(
    exp: Experiment,
    progress: decisions.Progress,
    checkpoints: Checkpoints,
    logbook: Logbook,
    signal: str | None,
    evaluation_is_missing: bool,
) -> None:
    """Waits for the last checkpoint, and says why the run ends before its time.

    Raises:
      RunError: the last checkpoint, or the last entries of the log, could not be written.
      Interrupted: a signal ended the run before its last step, or within the evaluation of that step.
    """
    config, is_over, leaving = exp.config, progress.step >= exp.total_steps, bool(signal) or evaluation_is_missing
    if progress.stopping and not is_over and not leaving:
        logbook.say(
            f"Stopping early: no better {config.checkpoint.best_metric} in {config.early_stopping} evaluations."
        )
    checkpoints.poll(wait=True)
    if checkpoints.lost is not None:
        newest = checkpoints.newest()
        others = "there is none before it" if newest is None else f"the newest whole one is of step {newest}"
        raise RunError(
            f"The last checkpoint, of step {progress.step}, is lost; {others}. Make room, and give the same command again."
        )
    logbook.require_written()
    if leaving and (not is_over or evaluation_is_missing):
        raise Interrupted(
            f"stopped by {signal} at step {progress.step} of {exp.total_steps}, and saved. The same command goes on from "
            "there:"
        )


def train_step_for(exp: Experiment) -> Callable:
    """The pure training step of an experiment."""
    config = exp.config
    return train_step_of(
        exp.network.model,
        exp.network.task,
        exp.augment,
        exp.optimizer,
        exp.schedule,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        key_of_inputs=exp.network.key,
        frozen=config.optimizer.frozen,
        matmul_precision=config.matmul_precision,
    )


@contextlib.contextmanager
def _train_batches(exp: Experiment, start: int, stop: int) -> Iterator[Iterator[dict]]:
    """Training batches on the devices, placed ahead of their use."""
    rows = parallel.local_rows(exp.layout, exp.config.batch_size)
    batch = pipeline.TrainBatch(exp.train, exp.config.seed, exp.config.batch_size, rows)
    if exp.config.data.placement == "device":
        replicate, place = (lambda tree, f=f: f(exp.layout, tree) for f in (parallel.replicate, parallel.place))
        opened = pipeline.resident_batches(batch, start, stop, replicate, place)
    else:
        opened = pipeline.batches(batch, start, stop, exp.config.data.workers)
    with opened as batches:
        yield pipeline.ahead(batches, lambda b: parallel.place_for_training(exp.layout, b))


def _take(logbook: Logbook, step: int, metrics: dict | None, checkpoints: Checkpoints, log_every: int) -> None:
    """Hands the metrics of the step that led to `step`, if there are any, to the log, which makes an entry of them every
    `log_every` steps.

    Raises:
      RunError: a loss, a gradient or the parameters are not finite.
    """
    if metrics is None:
        return
    values = {name: np.asarray(value, np.float64)[()] for name, value in jax.device_get(metrics).items()}
    for name, what in [("loss", "loss"), ("grad_norm", "gradient"), ("param_norm", "size of the parameters")]:
        if not np.isfinite(values[name]):
            last = checkpoints.newest()
            good = f"The last good checkpoint is of step {last}" if last is not None else "There is no checkpoint yet"
            raise RunError(
                f"The {what} is not finite at step {step} ({values[name]}); nothing of it was saved. {good}.\n"
                "Try a lower --config.optimizer.learning_rate, --config.optimizer.clip_norm=1, a longer "
                "--config.schedule.warmup, or --config.dtype=float32."
            )
    logbook.add(values)
    if step % log_every == 0:
        logbook.train(step)

"""The training loop: one for every task, model and layout."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import experiment, parallel, processes
from cnnjax.data import pipeline
from cnnjax.errors import Interrupted, RunError
from cnnjax.evaluation import eval_step_of, evaluate, evaluated_variables
from cnnjax.experiment import Experiment
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import interruption, opening, scoring
from cnnjax.training.agreement import Agreement
from cnnjax.training.initial import initial_state, require_source
from cnnjax.training.logbook import Logbook, duration
from cnnjax.training.state import TrainState, after_evaluation, pack, unpack
from cnnjax.training.step import train_step_of

Log = Callable[[str], None]
RETRY_SECONDS = 60.0  # after a save that failed


def fit(exp: Experiment, workdir: str | Path, *, log: Log = print) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`, and scores the test split once at the end.

    1. The run directory is locked, and gets its records; one that holds another run is refused.
    2. The state comes from the newest whole checkpoint, else from `config.init_from`, else from the seed.
    3. Steps are dispatched one ahead of the host, which reads the metrics of the step before.
    4. After each evaluation of validation the plateau schedule and early stopping move on; what is due is saved.
    5. The best (or last) parameters are scored on test, and the pictures and the summary are written.

    Several processes call it alike, each with its part of the devices, and all see the one directory; the main one writes.

    Args:
      exp: what `experiment.build(config)` returns.
      workdir: the run directory; made where it is missing.
      log: prints a line.

    Returns:
      the summary, as in summary.json: the task's scores of the test split, and times.

    Raises:
      UserError: the directory holds a run with another configuration, is in use, or cannot be written to.
      RunError: the loss or the parameters are not finite any more, every checkpoint is damaged, or the last cannot be saved.
      Interrupted: SIGTERM or Ctrl-C; all is saved, and the same call goes on.
    """
    workdir, config, by_main = Path(workdir), exp.config, processes.by_main
    log = log if processes.is_main() else lambda text: None
    started = time.monotonic()
    require_source(config, workdir)
    opening.require_same_config(config)
    keeping = dict(keep=config.checkpoint.keep, best_metric=config.checkpoint.best_metric, log=log)
    watched = interruption.watched(processes.leave_at_once)
    with opening.taken(workdir), watched as asked, Checkpoints(workdir, **keeping) as checkpoints:
        changed = by_main(lambda: opening.changed_knobs(workdir, exp))
        start = by_main(lambda: checkpoints.chosen("last"))
        by_main(lambda: checkpoints.chosen("best"))  # a damaged one must not stand for the score to beat
        if (summary := by_main(lambda: opening.complete(exp, workdir, start))) is not None:
            more = f"To go on, raise --config.{'steps' if config.steps else 'epochs'}."
            log(f"This run is complete ({start} steps). {'It stopped early.' if summary['stopped_early'] else more}")
            for line in exp.network.task.summary_lines(summary) if exp.test is not None else ():
                log("  " + line)
            return summary
        state = parallel.place_state(exp.layout, initial_state(exp, log, fine_tune=start is None))
        record = {}
        if start is not None:
            state, record = unpack(state, *checkpoints.restore(start, *pack(state))), checkpoints.record(start)
            log(f"Going on from step {start} of {exp.total_steps}.")
        by_main(lambda: opening.write_records(workdir, exp, start or 0, changed, log))
        log(memory_line(exp, state))
        agreed = Agreement(exp.layout, asked)
        book = dict(total_steps=exp.total_steps, steps_per_epoch=exp.steps_per_epoch, batch_size=config.batch_size)
        book |= dict(
            evaluated=record.get("evaluated", True),
            start=start or 0,
            task=exp.network.task,
            log=log,
            carried=record.get("log"),
            writes=processes.is_main(),
        )
        with Logbook(workdir, **book) as logbook, jax.transfer_guard("disallow"), parallel.memory_errors():
            state, steps = train(exp, state, checkpoints, logbook, agreed, evaluated=record.get("evaluated", False))
        with parallel.memory_errors(), _said_of_a_finished_run(workdir):
            summary, figures = scoring.score_test(exp, state, checkpoints, log, agreed.check)
        seconds = round(time.monotonic() - started, 1)
        summary |= dict(steps=steps, stopped_early=steps < exp.total_steps, seconds=seconds)
        by_main(lambda: scoring.write_summary(workdir, summary, figures, exp.network.task.shown, log))
    log(f"{duration(summary['seconds'])} in all. Everything is in {workdir}")
    return summary


def memory_line(exp: Experiment, state: TrainState) -> str:
    """What each device holds, in MB of 10^6 bytes."""
    held = {
        "parameters": parallel.held_megabytes((state.params, state.ema_params, state.batch_stats)),
        "optimizer state": parallel.held_megabytes(state.opt_state),
    }
    if exp.config.data.placement == "device":
        held["pictures"] = pipeline.megabytes(exp.train, exp.record.image_shape, np.dtype(exp.record.dtype)) * 1.048576
    shown = ", ".join(f"{megabytes:,.2f} MB of {what}" for what, megabytes in held.items())
    return f"layout  {parallel.describe(exp.layout)}: each device holds {shown}, and {exp.config.batch_size // exp.layout.size} of a batch"


@contextlib.contextmanager
def _said_of_a_finished_run(workdir: Path) -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        raise Interrupted(
            f"All steps are done and saved in {workdir}, the test is not: {error} This scores it:"
        ) from None


def train(
    exp: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    logbook: Logbook,
    agreed: Agreement,
    evaluated: bool,
) -> tuple[TrainState, int]:
    """Steps from `state.step` to the end, or to early stopping; all is then saved. Returns the last state and its step.

    Args:
      agreed: whether a signal asked to stop.
      evaluated: whether the evaluation that may be due at this very step was made before it was saved.

    Raises:
      Interrupted: after the step under way, or within an evaluation, when all is saved.
    """
    config, layout = exp.config, exp.layout
    higher_is_better = config.checkpoint.best_metric != "loss"
    train_step = parallel.compile_train_step(layout, train_step_for(exp), state)
    eval_step = parallel.compile_eval_step(layout, eval_step_of(exp.network, config.matmul_precision, detailed=False))
    advance = jax.jit(after_evaluation, static_argnames=("patience", "factor", "plateau", "higher_is_better"))
    length = exp.steps_per_epoch if config.evaluate_unit == "epochs" else 1.0
    eval_every = experiment.steps_between(config.evaluate_every, length)
    save_every = config.checkpoint.every_minutes * 60
    step = int(jax.device_get(state.step))
    saved_step, best = processes.by_main(lambda: (checkpoints.newest(), checkpoints.best_score()))
    scores, failures, next_save = None, checkpoints.failures, time.monotonic() + save_every
    stop = bool(config.early_stopping) and int(jax.device_get(state.stopping.waited)) >= config.early_stopping
    pending, compiling = None, True  # metrics of the last step, which may not be computed yet

    def settle() -> None:
        """Waits for the metrics of the last step: nothing is logged or saved before they are known to be finite."""
        nonlocal pending
        if pending is not None:
            _take(logbook, step, pending, checkpoints, config.log_every)
            pending = None

    def save() -> None:
        nonlocal saved_step, next_save
        record = dict(scores=scores, evaluated=evaluated, log=logbook.carried())
        with jax.transfer_guard("allow"):
            checkpoints.save(step, *pack(state), record)
        saved_step, next_save = step, time.monotonic() + save_every
        agreed.forget_due()

    def evaluate_now() -> bool:
        """Scores validation, moves plateau and early stopping on, and says whether the score is the best so far."""
        nonlocal state, scores, best, stop
        variables = evaluated_variables(state.model_variables())
        batch_size = experiment.eval_batch_size(config)
        sums = evaluate(eval_step, variables, exp.validation, layout, batch_size, check=agreed.check)
        scores = exp.network.task.scores(sums)
        score = scores[config.checkpoint.best_metric]
        # An equal score counts as best, so that the newest of equals is always saved, whatever the clock says.
        is_best = np.isfinite(score) and (best is None or (score >= best if higher_is_better else score <= best))
        best = score if is_best else best
        logbook.evaluation("validation", step, scores, note="  (best)" if is_best else "")
        if step % eval_every == 0:  # not at the end of a run that a longer one would pass by
            plateau, stopping = advance(
                state.plateau,
                state.stopping,
                parallel.replicate(layout, np.float32(score)),
                plateau=config.schedule.name == "plateau",
                patience=config.schedule.patience,
                factor=config.schedule.factor,
                higher_is_better=higher_is_better,
            )
            state = state.replace(plateau=plateau, stopping=stopping)
            stop = bool(config.early_stopping) and int(jax.device_get(stopping.waited)) >= config.early_stopping
        return is_best

    with _train_batches(exp, step, exp.total_steps) as batches:
        while True:
            agreed.look(due=bool(save_every) and time.monotonic() >= next_save)
            last, leaving = step >= exp.total_steps, bool(agreed.by)
            due = agreed.due and step % config.log_every == 0
            evaluating = exp.validation is not None and not evaluated and step > 0 and (step % eval_every == 0 or last)
            if evaluating or due or last or leaving:
                settle()
            if evaluating or last:
                logbook.train(step)
            if evaluating:
                try:
                    is_best = evaluate_now()
                    evaluated, saved_step = True, None
                    due = due or is_best or save_every == 0
                except Interrupted:  # saved as it was before the evaluation, which is made when the run goes on
                    leaving = True
            checkpoints.poll()
            if checkpoints.failures != failures:  # the score to beat is one that was saved
                failures, best = checkpoints.failures, checkpoints.best_score()
                saved_step = None if saved_step == checkpoints.lost else saved_step
                next_save = min(next_save, time.monotonic() + RETRY_SECONDS)
            if (due or last or stop or leaving) and saved_step != step:
                save()
            if last or stop or leaving:
                break
            if evaluating or due:
                logbook.restart_clock()
            try:
                batch = next(batches)
            except Exception:
                if agreed.is_asked_here():  # the signal reached the reading workers too
                    continue
                raise
            state, metrics = train_step(state, batch)
            before, pending = pending, metrics
            if before is not None:
                _take(logbook, step, before, checkpoints, config.log_every)
            step, evaluated, scores = step + 1, False, None
            if compiling:  # its time is not part of images/s
                settle()
                logbook.compiled(step)
                compiling = False
    if stop and not last and not leaving:
        logbook.say(
            f"Stopping early: no better {config.checkpoint.best_metric} in {config.early_stopping} evaluations."
        )
    checkpoints.poll(wait=True)
    if checkpoints.lost is not None:
        newest = checkpoints.newest()
        others = "there is none before it" if newest is None else f"the newest whole one is of step {newest}"
        raise RunError(
            f"The last checkpoint, of step {step}, is lost; {others}. Make room, and give the same command again."
        )
    logbook.require_written()
    if leaving and (not last or (evaluating and not evaluated)):
        raise Interrupted(
            f"stopped by {agreed.by} at step {step} of {exp.total_steps}, and saved. The same command goes on from there:"
        )
    return state, step


def train_step_for(exp: Experiment) -> Callable:
    """The pure training step of an experiment."""
    config = exp.config
    return train_step_of(
        exp.network.model,
        exp.network.task,
        exp.augment,
        exp.optimizer,
        exp.schedule,
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
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


def _take(logbook: Logbook, step: int, metrics: dict, checkpoints: Checkpoints, log_every: int) -> None:
    """Hands the metrics of the step that led to `step` to the log, which makes an entry of them every `log_every` steps.

    Raises:
      RunError: a loss, a gradient or the parameters are not finite.
    """
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

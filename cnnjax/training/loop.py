"""The training loop: one for every task, model and layout."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import experiment, parallel
from cnnjax.data import pipeline
from cnnjax.errors import RunError, UserError
from cnnjax.evaluation import eval_step_of, evaluate, evaluate_with_mistakes, evaluated_variables
from cnnjax.experiment import Experiment
from cnnjax.run_directory import checkpoint, records
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import report
from cnnjax.training.initial import initial_state, require_source
from cnnjax.training.logbook import Logbook, duration, read_entries
from cnnjax.training.state import TrainState, after_evaluation, pack, unpack
from cnnjax.training.step import train_step_of

Log = Callable[[str], None]


def fit(exp: Experiment, workdir: str | Path, *, log: Log = print) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`, and scores the test split once at the end.

    1. The run directory gets its records; one that holds another run is refused.
    2. The state comes from the newest checkpoint, else from `config.init_from`, else from the seed.
    3. Steps are dispatched one ahead of the host, which reads the metrics of the step before.
    4. After each evaluation of validation the plateau schedule and early stopping move on; what is due is saved.
    5. The best (or last) parameters are scored on test, and the summary and pictures are written.

    Args:
      exp: what `experiment.build(config)` returns.
      workdir: the run directory; made where it is missing.
      log: prints a line.

    Returns:
      the summary, as in summary.json: the task's scores of the test split, and times.

    Raises:
      UserError: the directory holds a run with another configuration.
      RunError: the loss or the parameters are not finite any more, or the disk refuses.
    """
    workdir, config = Path(workdir), exp.config
    started = time.monotonic()
    require_source(config, workdir)
    open_run(workdir, exp)
    with Checkpoints(workdir, keep=config.checkpoint.keep, best_metric=config.checkpoint.best_metric) as checkpoints:
        start = checkpoints.newest()
        if (summary := _complete(exp, workdir, start)) is not None:
            log(f"This run is complete ({start} steps). To go on, raise --config.epochs.")
            for line in exp.network.task.summary_lines(summary) if exp.test is not None else ():
                log("  " + line)
            return summary
        state = parallel.replicate(exp.layout, initial_state(exp, log, fine_tune=start is None))
        if start is not None:
            state = unpack(state, *checkpoints.restore(start, *pack(state)))
            log(f"Going on from step {start} of {exp.total_steps}.")
        book = dict(total_steps=exp.total_steps, steps_per_epoch=exp.steps_per_epoch, batch_size=config.batch_size)
        with Logbook(workdir, start=start or 0, scores_of=exp.network.task.scores, log=log, **book) as logbook:
            with jax.transfer_guard("disallow"), _memory_errors():
                state, steps = train(exp, state, checkpoints, logbook)
        checkpoints.wait()
        times = dict(steps=steps, stopped_early=steps < exp.total_steps)
        with _memory_errors():
            summary = finish(exp, state, checkpoints, workdir, log, times, started)
    log(f"{duration(summary['seconds'])} in all. Everything is in {workdir}")
    return summary


def _complete(exp: Experiment, workdir: Path, newest: int | None) -> dict[str, Any] | None:
    """The summary of a run that has reached its end, or stopped early; else None."""
    if newest is None or not (workdir / "summary.json").exists():
        return None
    summary = records.read_json(workdir / "summary.json")
    ended = newest >= exp.total_steps or (summary.get("stopped_early") and newest == summary["steps"])
    return summary if ended else None


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Says what helps when a device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"The device has too little memory: {str(error).splitlines()[0][:200]}\n"
            "Try a smaller --config.batch_size, --config.accumulate=2 or more, or --config.remat."
        ) from error


def open_run(workdir: Path, exp: Experiment) -> None:
    """Writes the records of a new run, or compares those of an old one.

    Raises:
      UserError: the directory holds a run whose identity differs, naming each knob and both values.
    """
    config = experiment.to_json(exp.config)
    if records.is_run(workdir) and checkpoint.exist(workdir):  # one that never got so far may be begun anew
        differences = experiment.identity_differences(records.read_json(workdir / "config.json"), config)
        if differences:
            shown = "; ".join(f"config.{name} was {old!r}, now {new!r}" for name, old, new in differences[:5])
            raise UserError(f"{workdir} holds a run with another configuration: {shown}. Give another --workdir.")
        before = records.read_dataset(workdir)
        if before.fingerprint != exp.record.fingerprint:
            raise UserError(
                f"{workdir} holds a run on other data: {before.name} has changed since. Give another --workdir."
            )
    elif workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: give a folder.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}.") from None
    records.write_json(workdir / "environment.json", records.environment())
    records.write_dataset(workdir, exp.record)
    records.write_json(workdir / "config.json", config)


def train(exp: Experiment, state: TrainState, checkpoints: Checkpoints, logbook: Logbook) -> tuple[TrainState, int]:
    """Steps from `state.step` to the end, or to early stopping. Returns the last state and its step."""
    config, layout = exp.config, exp.layout
    higher_is_better = config.checkpoint.best_metric == "accuracy"
    train_step = parallel.compile_train_step(layout, train_step_for(exp))
    eval_step = parallel.compile_eval_step(layout, eval_step_of(exp.network, config.matmul_precision, detailed=False))
    advance = jax.jit(
        after_evaluation, static_argnames=("patience", "factor", "plateau", "higher_is_better"), donate_argnums=0
    )
    eval_every = experiment.steps_between(config.evaluate_every, exp.steps_per_epoch)
    step, saved_at, saved_step = int(jax.device_get(state.step)), time.monotonic(), checkpoints.newest()
    best = checkpoints.best_score()
    scores = None

    def stopped() -> bool:
        return bool(config.early_stopping) and int(jax.device_get(state.stopping.waited)) >= config.early_stopping

    def save() -> None:
        nonlocal saved_at, saved_step
        with jax.transfer_guard("allow"):
            checkpoints.save(step, *pack(state), scores)
        saved_at, saved_step = time.monotonic(), step

    if stopped():
        return state, step
    pending, compiling = None, True
    with _train_batches(exp, step, exp.total_steps) as batches:
        for batch in batches:
            state, metrics = train_step(state, batch)
            if pending is not None:
                _take(logbook, step, pending, checkpoints, config.log_every)
            step, pending = step + 1, metrics
            evaluating = exp.validation is not None and (step % eval_every == 0 or step == exp.total_steps)
            due = time.monotonic() - saved_at > config.checkpoint.every_minutes * 60
            pausing = evaluating or step == exp.total_steps or (due and step % config.log_every == 0)
            if pausing or compiling:  # nothing is saved before its loss is known to be finite
                _take(logbook, step, pending, checkpoints, config.log_every)
                pending = None
            if compiling:  # its time is not part of images/s
                logbook.compiled(step)
                compiling = False
            if not pausing:
                continue
            logbook.train(step)
            scores = None
            if evaluating:
                variables = evaluated_variables(state.model_variables())
                sums = evaluate(eval_step, variables, exp.validation, layout, experiment.eval_batch_size(config))
                scores = exp.network.task.scores(sums)
                score = scores[config.checkpoint.best_metric]
                is_best = np.isfinite(score) and (best is None or (score > best if higher_is_better else score < best))
                best = score if is_best else best
                logbook.evaluation("validation", step, scores, note="  (best)" if is_best else "")
                state = advance(
                    state,
                    parallel.replicate(layout, np.float32(score)),
                    plateau=config.schedule.name == "plateau",
                    patience=config.schedule.patience,
                    factor=config.schedule.factor,
                    higher_is_better=higher_is_better,
                )
                due = due or is_best or config.checkpoint.every_minutes == 0
            if due:
                save()
            if stopped():
                logbook.say(
                    f"Stopping early: no better {config.checkpoint.best_metric} in {config.early_stopping} evaluations."
                )
                break
            logbook.restart_clock()
    if saved_step != step:
        save()
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
    batch = pipeline.TrainBatch(exp.train, exp.config.seed, exp.config.batch_size)
    if exp.config.data.placement == "device":
        opened = pipeline.resident_batches(batch, start, stop, lambda tree: parallel.replicate(exp.layout, tree))
    else:
        opened = pipeline.batches(batch, start, stop, exp.config.data.workers)
    with opened as batches:
        yield pipeline.ahead(batches, lambda b: parallel.place(exp.layout, b))


def _take(logbook: Logbook, step: int, metrics: dict, checkpoints: Checkpoints, log_every: int) -> None:
    """Hands the metrics of the step that led to `step` to the log, which makes an entry of them every `log_every` steps.

    Raises:
      RunError: a loss, a gradient or the parameters are not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
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


def finish(
    exp: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    workdir: Path,
    log: Log,
    times: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """Scores the test split with the best or last parameters, and writes summary and pictures."""
    which = exp.config.checkpoint.test if exp.validation is not None else "last"
    step = checkpoints.chosen(which)
    model = state.model_variables()
    if step != int(state.step):
        model = checkpoints.restore_model(step, like=model)
    task, names = exp.network.task, exp.record.class_names
    summary, figures = dict(tested_step=None), {}
    if exp.test is not None:
        eval_step = parallel.compile_eval_step(exp.layout, eval_step_of(exp.network, exp.config.matmul_precision))
        batch_size = experiment.eval_batch_size(exp.config)
        variables = evaluated_variables(model)
        sums, mistakes = evaluate_with_mistakes(eval_step, variables, exp.test, exp.layout, batch_size)
        summary = task.summary(sums, names) | dict(tested_step=step)
        log(f"\nTest, with the parameters of step {step} ({which}):")
        for line in task.summary_lines(summary):
            log("  " + line)
        figures = task.figures(sums, mistakes, names)
    summary |= times | dict(seconds=round(time.monotonic() - started, 1))
    records.write_json(workdir / "summary.json", summary)
    files = report.save_figures(workdir, dict(learning_curves=report.learning_curves(read_entries(workdir))) | figures)
    log(f"Pictures: {', '.join(files)}")
    return summary

"""A whole run, from a built experiment to its summary: begun anew or gone on with."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import device_memory, experiment, parallel, processes
from cnnjax.data import pipeline
from cnnjax.errors import Interrupted
from cnnjax.experiment import Experiment
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import interruption, opening, scoring
from cnnjax.training.agreement import Agreement
from cnnjax.training.initial import initial_state, require_source
from cnnjax.training.logbook import Logbook, duration
from cnnjax.training.loop import train
from cnnjax.training.state import TrainState, pack, unpack

Log = Callable[[str], None]


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
    keeping |= dict(higher_is_better=experiment.higher_is_better(config))
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
        with Logbook(workdir, **book) as logbook, jax.transfer_guard("disallow"), device_memory.memory_errors():
            state, steps = train(exp, state, checkpoints, logbook, agreed, evaluated=record.get("evaluated", False))
        with device_memory.memory_errors(), _said_of_a_finished_run(workdir):
            summary, figures = scoring.score_test(exp, state, checkpoints, log, agreed.check)
        seconds = round(time.monotonic() - started, 1)
        summary |= dict(steps=steps, stopped_early=steps < exp.total_steps, seconds=seconds)
        by_main(lambda: scoring.write_summary(workdir, summary, figures, exp.network.task.shown, log))
    log(f"{duration(summary['seconds'])} in all. Everything is in {workdir}")
    return summary


def memory_line(exp: Experiment, state: TrainState) -> str:
    """What each device holds, in MB of 10^6 bytes."""
    held = {
        "parameters": device_memory.held_megabytes((state.params, state.ema_params, state.batch_stats)),
        "optimizer state": device_memory.held_megabytes(state.opt_state),
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

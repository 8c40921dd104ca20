"""The state before the first step: from the seed, or from another run whose parameters are fine-tuned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax

from cnnjax.config import Config
from cnnjax.errors import UserError
from cnnjax.evaluation import evaluated_variables
from cnnjax.experiment import Experiment, higher_is_better, initial_variables
from cnnjax.run_directory import checkpoint, records
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.serialization import ranking
from cnnjax.training.state import TrainState, create


def require_source(config: Config, workdir: Path) -> None:
    """Raises UserError where a run is to start from another that is not there. One that goes on no longer needs it."""
    if config.init_from and not checkpoint.exist(workdir) and not checkpoint.exist(Path(config.init_from)):
        raise UserError(f"config.init_from={config.init_from} is no run directory with a checkpoint.")


def initial_state(exp: Experiment, log: Callable[[str], None] = print, *, fine_tune: bool = True) -> TrainState:
    """The state before the first step, fine-tuned where `config.init_from` says so.

    Raises:
      UserError: `config.init_from` is no run, or of another architecture.
    """
    config = exp.config
    # Compiled as one program, or every initialiser would be compiled by itself.
    variables = jax.jit(lambda: initial_variables(exp.network, config.seed))()
    if config.init_from and fine_tune:
        variables = fine_tuned(variables, Path(config.init_from), log)
    return create(
        variables,
        exp.optimizer,
        seed=config.seed,
        ema=bool(config.ema_decay),
        higher_is_better=higher_is_better(config),
    )


def fine_tuned(variables: dict[str, Any], run: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """`variables` with the values that the run's tested checkpoint has under the same names.

    Whatever has another shape there, as a head for another number of classes has, or is missing, stays fresh and is named.

    Raises:
      UserError: no run, no checkpoint, or fewer than half of the arrays fit.
    """
    records.require_run(run)
    best_metric, is_higher_better, which = ranking(records.read_json(run / "config.json"))
    with Checkpoints(run, best_metric=best_metric, higher_is_better=is_higher_better, read_only=True) as checkpoints:
        step = checkpoints.chosen(which)
        if step is None:
            raise UserError(f"config.init_from={run} has no checkpoint yet.")
        saved = flax.traverse_util.flatten_dict(evaluated_variables(checkpoints.restore_model(step)), sep="/")
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    taken = {name: saved[name] for name, value in flat.items() if name in saved and saved[name].shape == value.shape}
    if 2 * len(taken) < len(flat):
        first = min(flat.keys() - taken.keys())
        there = saved[first].shape if first in saved else "missing"
        raise UserError(
            f"config.init_from={run} is of another architecture: only {len(taken)} of {len(flat)} arrays have the same "
            f"name and shape; {first} is {there} there, {flat[first].shape} here."
        )
    fresh = sorted(name.removeprefix("params/") for name in flat.keys() - taken.keys())
    log(f"Parameters from {run}, step {step}" + (f"; new: {', '.join(fresh)}" if fresh else "") + ".")
    return flax.traverse_util.unflatten_dict(flat | taken, sep="/")

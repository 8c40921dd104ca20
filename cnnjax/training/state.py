"""What a training run carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cnnjax.optimizers import Plateau, plateau_start, plateau_update, waited_update


class TrainState(flax.struct.PyTreeNode):
    """All that the next step depends on, besides the data: batch `step` is the next one."""

    step: jax.Array  # [] int32, how many updates were made
    params: Any  # float32
    batch_stats: Any  # running statistics of BatchNorm; {} without
    opt_state: Any
    ema_params: Any  # moving average of params; {} without
    key: jax.Array  # randomness of step n is fold_in(key, n)
    plateau: Plateau  # the plateau schedule's best score, evaluations waited, and factor of the learning rate
    stopping: Plateau  # early stopping's best score and evaluations waited

    def model_variables(self) -> dict[str, Any]:
        """What a network needs of a run: parameters, their moving average and running statistics."""
        return dict(params=self.params, batch_stats=self.batch_stats, ema_params=self.ema_params)


def create(variables: dict[str, Any], optimizer, *, seed: int, ema: bool, higher_is_better: bool) -> TrainState:
    """The state before the first step, from the variables that `model.init` or a fine-tuned run gives."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else {},
        key=jax.random.fold_in(jax.random.key(seed), 1),
        plateau=plateau_start(higher_is_better),
        stopping=plateau_start(higher_is_better),
    )


def after_evaluation(
    falling: Plateau,
    stopping: Plateau,
    score: jax.Array,
    *,
    plateau: bool,
    patience: int,
    factor: float,
    higher_is_better: bool,
) -> tuple[Plateau, Plateau]:
    """A state's `plateau` and `stopping` once validation gave a score: the rate fell or not, waited longer or not."""
    best, waited = waited_update(stopping.best, stopping.waited, score, higher_is_better)
    if plateau:
        falling = plateau_update(falling, score, patience=patience, factor=factor, higher_is_better=higher_is_better)
    return falling, stopping._replace(best=best, waited=waited)


def pack(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as the two items of a checkpoint, `model` and `training`, of plain arrays."""
    training = dict(
        step=state.step,
        opt_state=state.opt_state,
        key=jax.random.key_data(state.key),
        plateau=state.plateau._asdict(),
        stopping=state.stopping._asdict(),
    )
    return state.model_variables(), training


def unpack(state: TrainState, model: dict[str, Any], training: dict[str, Any]) -> TrainState:
    """The state that `pack` took apart."""
    return state.replace(
        **model,
        step=training["step"],
        opt_state=training["opt_state"],
        key=jax.random.wrap_key_data(training["key"]),
        plateau=Plateau(**training["plateau"]),
        stopping=Plateau(**training["stopping"]),
    )

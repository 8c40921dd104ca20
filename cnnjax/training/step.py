"""One step of training: a pure function, written once, compiled elsewhere."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax import kernels, layers
from cnnjax.optimizers import ema_update, is_frozen
from cnnjax.training.state import TrainState


def train_step_of(
    model: nn.Module,
    task,
    augment: Callable,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    key_of_inputs: str = "image",
    frozen: tuple[str, ...] = (),
    matmul_precision: str = "default",
) -> Callable:
    """`train_step(state, batch, *, axis_name=None) -> (state, metrics)`.

    `augment(key, batch, axis_name) -> batch` runs first. The loss is the task's sum over its normaliser, both of the whole
    batch. Under `jit` over a mesh the step sees that batch; with `axis_name` (`pmap`) it sees its device's part, and both
    sums, the gradients and BatchNorm's statistics are added up over that axis, while each device drops units of its own.
    With accumulate=k the batch is worked off in k parts, one after another, whose gradients add up to that of the whole
    (BatchNorm sees each part).
    Metrics are the task's sums, and `learning_rate`, `grad_norm` and `param_norm` (both L2, after the update for the latter).
    """

    def loss_of_part(params, batch_stats, batch, key, axis_name):
        variables = dict(params=params, **({"batch_stats": batch_stats} if batch_stats else {}))
        with layers.batch_axis(axis_name), nn.intercept_methods(_frozen_statistics(frozen)):
            logits, changed = model.apply(
                variables, batch[key_of_inputs], train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
        total, normaliser = task.loss(logits, batch)
        return total, (changed.get("batch_stats", {}), dict(normaliser=normaliser, metrics=task.metrics(logits, batch)))

    def train_step(state: TrainState, batch: dict, *, axis_name: str | None = None) -> tuple[TrainState, dict]:
        add_up = lambda tree: jax.lax.psum(tree, axis_name) if axis_name else tree
        gradient = partial(jax.grad(loss_of_part, has_aux=True), axis_name=axis_name)
        key = jax.random.fold_in(state.key, state.step)
        augment_key, dropout_key = jax.random.split(key)
        if axis_name:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        with jax.default_matmul_precision(matmul_precision):
            batch = augment(augment_key, batch, axis_name)
            if accumulate == 1:
                gradients, (batch_stats, sums) = gradient(state.params, state.batch_stats, batch, dropout_key)
            else:
                gradients, batch_stats, sums = _accumulated(gradient, state, batch, dropout_key, accumulate)
            gradients, sums = add_up(gradients), add_up(sums)
            gradients = jax.tree.map(lambda g: g / sums["normaliser"], gradients)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            updates = jax.tree.map(lambda u: state.plateau.scale * u, updates)
            params = optax.apply_updates(state.params, updates)
        metrics = sums["metrics"] | dict(
            learning_rate=schedule(state.step) * state.plateau.scale,
            grad_norm=_norm(gradients),
            param_norm=_norm(params),
        )
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if ema_decay:
            new = new.replace(ema_params=ema_update(state.ema_params, params, ema_decay, state.step))
        return new, metrics

    return train_step


def _norm(tree) -> jax.Array:
    """The L2 norm of all arrays together."""
    return jnp.sqrt(sum(map(kernels.square_sum, jax.tree.leaves(tree))))


def _accumulated(gradient: Callable, state: TrainState, batch: dict, key: jax.Array, parts: int):
    """Gradient and other sums over `parts` equal parts of the batch, each with its own dropout."""
    # Part p takes examples p, p + parts, ...: on several devices every part then lies on all of them.
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(batch_stats, part):
        index, part = part
        gradients, (batch_stats, sums) = gradient(state.params, batch_stats, part, jax.random.fold_in(key, index))
        return batch_stats, (gradients, sums)

    def summed(carry, part):
        batch_stats, totals = carry
        batch_stats, terms = body(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, totals, terms)), None

    items = (jnp.arange(parts), batch)
    first = jax.tree.map(lambda x: x[0], items)
    rest = jax.tree.map(lambda x: x[1:], items)
    (batch_stats, (gradients, sums)), _ = jax.lax.scan(summed, body(state.batch_stats, first), rest)
    return gradients, batch_stats, sums


def _frozen_statistics(frozen: tuple[str, ...]) -> Callable:
    """BatchNorm under a frozen path normalises by its running statistics and leaves them as they are."""

    def interceptor(call, args, kwargs, context):
        module = context.module
        if frozen and isinstance(module, layers.BatchNorm) and context.method_name == "__call__":
            if is_frozen(module.path, frozen):
                kwargs = kwargs | dict(use_running_average=True)
        return call(*args, **kwargs)

    return interceptor

"""One step of training, against NumPy and against itself in parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import layers, optimizers, tasks
from cnnjax.config import Optimizer, Schedule
from cnnjax.training.state import create, pack, unpack
from cnnjax.training.step import train_step_of


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return layers.Dense(3, name="output")(x.reshape(x.shape[0], -1))


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = layers.normalization("batch", train, name="norm")(layers.Dense(4, name="hidden")(x.reshape(x.shape[0], -1)))
        return layers.Dense(3, name="output")(x)


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        image=rng.normal(size=(size, 2, 2, 1)).astype(np.float32),
        label=rng.integers(0, 3, size).astype(np.int32),
        weight=np.ones(size, np.float32),
        position=np.arange(size, dtype=np.int32),
    )


def prepared(model, batch, options=Optimizer(momentum=0.0, nesterov=False, learning_rate=0.5), *, ema=False, **kwargs):
    schedule = optimizers.schedule(Schedule(name="constant"), options.learning_rate, 10, 10)
    variables = model.init(jax.random.key(0), batch["image"])
    optimizer = optimizers.optimizer(options, schedule, variables["params"])
    state = create(variables, optimizer, seed=0, ema=ema, higher_is_better=True)
    step = train_step_of(
        model, tasks.options("classification").build(), lambda key, b, axis_name: b, optimizer, schedule, **kwargs
    )
    return state, step


def test_a_step_of_plain_descent_against_numpy():
    batch = batch_of(6)
    batch["weight"][4:] = 0  # padding
    state, step = prepared(Linear(), batch)
    new, metrics = jax.jit(step)(state, batch)
    x, kernel, bias = (
        batch["image"][:4].reshape(4, 4),
        *(np.asarray(state.params["output"][n]) for n in ("kernel", "bias")),
    )
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = np.eye(3)[batch["label"][:4]]
    d_kernel, d_bias = x.T @ (p - target) / 4, (p - target).mean(0)
    np.testing.assert_allclose(new.params["output"]["kernel"], kernel - 0.5 * d_kernel, atol=1e-6)
    np.testing.assert_allclose(new.params["output"]["bias"], bias - 0.5 * d_bias, atol=1e-6)
    assert metrics["count"] == 4 and int(new.step) == 1
    np.testing.assert_allclose(metrics["loss"] / 4, -np.log((p * target).sum(-1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((d_kernel**2).sum() + (d_bias**2).sum()), rtol=1e-5)
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(new.params)))
    np.testing.assert_allclose(metrics["param_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_make_the_same_step(parts):
    batch = batch_of(8)
    batch["weight"][5] = 0
    state, whole = prepared(Linear(), batch)
    _, in_parts = prepared(Linear(), batch, accumulate=parts)
    (a, metrics_a), (b, metrics_b) = jax.jit(whole)(state, batch), jax.jit(in_parts)(state, batch)
    for first, second in zip(jax.tree.leaves((a.params, metrics_a)), jax.tree.leaves((b.params, metrics_b))):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_batch_norm_sees_every_part_in_turn():
    batch = batch_of(8)
    state, step = prepared(WithBatchNorm(), batch, accumulate=2)
    new, _ = jax.jit(step)(state, batch)
    hidden = batch["image"].reshape(8, 4) @ np.asarray(state.params["hidden"]["kernel"])
    mean = np.zeros(4)
    for part in (hidden[0::2], hidden[1::2]):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    np.testing.assert_allclose(new.batch_stats["norm"]["mean"], mean, atol=1e-6)


def test_over_an_axis_the_sums_are_those_of_the_whole_batch():
    batch = batch_of(8)
    batch["weight"][5:] = 0  # unequal weights on the two halves
    state, step = prepared(Linear(), batch)
    whole, metrics = jax.jit(step)(state, batch)
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), batch)
    split = jax.jit(jax.vmap(lambda s, b: step(s, b, axis_name="data"), in_axes=(None, 0), axis_name="data"))
    new, sums = split(state, halves)
    for half in range(2):
        for first, second in zip(jax.tree.leaves((whole.params, metrics)), jax.tree.leaves((new.params, sums))):
            np.testing.assert_allclose(first, second[half], atol=1e-6)


def test_frozen_layers_keep_parameters_and_statistics():
    batch = batch_of(8)
    frozen = ("norm", "hidden/*")
    state, step = prepared(WithBatchNorm(), batch, Optimizer(frozen=frozen, weight_decay=0.1), frozen=frozen)
    new, _ = jax.jit(step)(state, batch)
    for name in ("norm", "hidden"):
        jax.tree.map(np.testing.assert_array_equal, new.params[name], state.params[name])
    jax.tree.map(np.testing.assert_array_equal, new.batch_stats, state.batch_stats)
    assert np.abs(np.asarray(new.params["output"]["kernel"] - state.params["output"]["kernel"])).max() > 0


def test_the_plateau_scales_the_update_and_the_logged_rate():
    batch = batch_of(8)
    state, step = prepared(Linear(), batch)
    full, _ = step(state, batch)
    tenth, metrics = step(state.replace(plateau=state.plateau._replace(scale=jnp.float32(0.1))), batch)
    change = lambda new: np.asarray(new.params["output"]["kernel"] - state.params["output"]["kernel"])
    np.testing.assert_allclose(change(tenth), 0.1 * change(full), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(metrics["learning_rate"], 0.05, rtol=1e-6)


def test_the_moving_average_follows():
    batch = batch_of(8)
    state, step = prepared(Linear(), batch, ema=True, ema_decay=0.99)
    new, _ = jax.jit(step)(state, batch)
    expected = 0.1 * state.params["output"]["kernel"] + 0.9 * new.params["output"]["kernel"]  # (1 + 0) / (10 + 0)
    np.testing.assert_allclose(new.ema_params["output"]["kernel"], expected, atol=1e-6)


def test_each_step_has_randomness_of_its_own():
    batch, keys = batch_of(4), []
    state, _ = prepared(Linear(), batch)
    step = train_step_of(
        Linear(),
        tasks.options("classification").build(),
        lambda key, b, axis_name: keys.append(key) or b,
        optax.sgd(0.1),
        lambda step: jnp.float32(0.1),
    )
    state = state.replace(opt_state=optax.sgd(0.1).init(state.params))
    for _ in range(3):
        state, _ = step(state, batch)
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == 3


def test_the_randomness_of_the_steps_is_the_seeds():
    optimizer, variables = optax.sgd(0.1), dict(params=dict(kernel=jnp.zeros(2)))
    first, again, other = (
        jax.random.key_data(create(variables, optimizer, seed=seed, ema=False, higher_is_better=True).key).tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_pack_and_unpack_are_inverse():
    state, step = prepared(WithBatchNorm(), batch_of(4), Optimizer(), ema=True, ema_decay=0.9)
    state, _ = step(state, batch_of(4))
    state = state.replace(stopping=state.stopping._replace(waited=state.stopping.waited + 3))  # unlike the plateau
    again = unpack(state, *pack(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state)):
        assert a.dtype == b.dtype and (a == b).all()

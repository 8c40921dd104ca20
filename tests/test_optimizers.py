"""Optimizers and schedules against rules written out in NumPy, and against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import config, knobs, optimizers
from cnnjax.errors import UserError

RATE = 0.05
RULES = ("sgd", "adamw", "lamb", "lars", "muon")


def some_params():
    normal = np.random.default_rng(0).normal
    params = {
        "stage1": {
            "conv": {"kernel": normal(size=(3, 3, 2, 4)), "bias": normal(size=4)},
            "norm": {"scale": normal(1, 0.1, size=4), "bias": np.zeros(4)},
        },
        "head": {"kernel": normal(size=(4, 5)), "bias": normal(size=5)},
    }
    return jax.tree.map(jnp.float32, params)


def some_gradients(params, step):
    normal = np.random.default_rng(100 + step).normal
    return jax.tree.map(lambda p: jnp.float32(normal(size=p.shape)), params)


def first_update(options, params, gradients, rate=RATE):
    transform = optimizers.optimizer(options, lambda step: rate, params)
    return jax.jit(lambda: transform.update(gradients, transform.init(params), params)[0])()


def trained(options, params, steps=4, rate=lambda step: RATE, gradients=some_gradients):
    """Parameters and optimizer state after some compiled steps, whose buffers are given away."""
    transform = optimizers.optimizer(options, rate, params)

    def step(params, state, gradient):
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)
    state = jax.jit(transform.init)(params)
    for n in range(steps):
        params, state = step(params, state, gradients(params, n))
    return params, state


def by_hand(rule, params, steps=4):
    """Each parameter for itself: rule(w, memory, g, t, is_kernel) -> w, with t from 1 and memory a dict."""

    def one(path, w):
        w, memory = np.asarray(w, np.float64), {}
        for n in range(steps):
            g = dict(jax.tree_util.tree_leaves_with_path(some_gradients(params, n)))[path]
            w = rule(w, memory, np.asarray(g, np.float64), n + 1, w.ndim >= 2)
        return w

    return jax.tree_util.tree_map_with_path(one, params)


def assert_close(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-6), actual, expected)


# --- Rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", (False, True))
def test_sgd_adds_decay_to_the_gradient_before_momentum(nesterov):
    def rule(w, memory, g, t, is_kernel):
        g = g + 0.01 * w * is_kernel
        memory["v"] = 0.8 * memory.get("v", 0) + g
        return w - RATE * (g + 0.8 * memory["v"] if nesterov else memory["v"])

    options = config.Optimizer(name="sgd", momentum=0.8, nesterov=nesterov, weight_decay=0.01)
    assert_close(trained(options, some_params())[0], by_hand(rule, some_params()))


def test_sgd_without_momentum_has_no_memory():
    params, state = trained(config.Optimizer(momentum=0.0), some_params())
    assert_close(params, by_hand(lambda w, memory, g, t, is_kernel: w - RATE * g, some_params()))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1  # the count of steps


def adam_direction(memory, g, t):
    memory["m"] = 0.85 * memory.get("m", 0) + 0.15 * g
    memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g**2
    return memory["m"] / (1 - 0.85**t) / (np.sqrt(memory["v"] / (1 - 0.95**t)) + 1e-3)


ADAM = dict(beta1=0.85, beta2=0.95, epsilon=1e-3, weight_decay=0.1)


@pytest.mark.parametrize("decay_all", (False, True))
def test_adamw_decays_apart_from_the_gradient(decay_all):
    def rule(w, memory, g, t, is_kernel):
        return w - RATE * (adam_direction(memory, g, t) + 0.1 * w * (is_kernel or decay_all))

    options = config.Optimizer(name="adamw", decay_all=decay_all, **ADAM)
    assert_close(trained(options, some_params())[0], by_hand(rule, some_params()))


def test_lamb_scales_the_update_of_a_kernel_to_its_norm():
    def rule(w, memory, g, t, is_kernel):
        update = adam_direction(memory, g, t)
        if is_kernel:
            update = update + 0.1 * w
            update = update * np.linalg.norm(w) / np.linalg.norm(update)
        return w - RATE * update

    options = config.Optimizer(name="lamb", **ADAM)
    assert_close(trained(options, some_params())[0], by_hand(rule, some_params()))


@pytest.mark.parametrize("nesterov", (False, True))
def test_lars_has_the_ratio_of_its_paper(nesterov):
    def rule(w, memory, g, t, is_kernel):
        if is_kernel:
            w_norm, g_norm = np.linalg.norm(w), np.linalg.norm(g)
            g = 0.001 * w_norm / (g_norm + 0.1 * w_norm) * (g + 0.1 * w)
        memory["v"] = 0.9 * memory.get("v", 0) + g
        return w - RATE * (g + 0.9 * memory["v"] if nesterov else memory["v"])

    options = config.Optimizer(name="lars", momentum=0.9, nesterov=nesterov, weight_decay=0.1)
    before = some_params()
    after = trained(options, before)[0]
    # Differences, for the steps of lars are so small that the parameters alone would hide them.
    change = lambda new: jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b), new, before)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-2, atol=1e-6),
        change(after),
        change(by_hand(rule, before)),
    )


@pytest.mark.parametrize("name", ("lamb", "lars"))
def test_layerwise_rules_move_a_kernel_of_zeros_and_bear_a_gradient_of_zeros(name):
    params = {"zero": jnp.zeros((2, 3)), "still": jnp.ones((2, 3))}
    gradients = {"zero": jnp.ones((2, 3)), "still": jnp.zeros((2, 3))}
    updates = first_update(config.Optimizer(name=name, momentum=0.0), params, gradients)
    np.testing.assert_allclose(updates["zero"], np.full((2, 3), -RATE), rtol=1e-4)
    np.testing.assert_array_equal(updates["still"], np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (3, 2, 2, 8, 5), (5, 3, 16), (4, 40), (40, 4)], ids=str)
def test_muon_orthogonalises_kernels_of_any_rank(shape):
    params = {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[-1])}
    # Most entries are positive, so one direction stands out of the gradient, and of Adam's update, but not of muon's.
    gradients = jax.tree.map(lambda g: g + 1.5, some_gradients(params, 0))
    muon, adamw = (first_update(config.Optimizer(name=n), params, gradients, rate=1.0) for n in ("muon", "adamw"))
    as_matrix = lambda u: np.asarray(u["kernel"]).reshape(-1, shape[-1])
    size = 0.2 * max(as_matrix(muon).shape) ** 0.5
    singular = np.linalg.svd(as_matrix(muon), compute_uv=False) / size
    assert 0.65 < singular.min() and singular.max() < 1.25
    # It is the orthogonal matrix next to the gradient: the same singular vectors, downhill.
    left, _, right = np.linalg.svd(as_matrix(gradients), full_matrices=False)
    rotated = -left.T @ as_matrix(muon) @ right.T / size
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-4)
    assert (np.diag(rotated) > 0.65).all()
    assert 0.15 < np.sqrt(np.mean(as_matrix(muon) ** 2)) < 0.25
    spread = np.linalg.svd(as_matrix(adamw), compute_uv=False)
    assert spread.max() / spread.min() > 2 * singular.max() / singular.min()
    np.testing.assert_allclose(muon["bias"], adamw["bias"], rtol=1e-6)


@pytest.mark.parametrize("decay_all", (False, True))
def test_muon_decays_apart_from_the_gradient(decay_all):
    options = dict(name="muon", decay_all=decay_all)
    plain, _ = trained(config.Optimizer(**options), some_params(), steps=1)
    decayed, _ = trained(config.Optimizer(weight_decay=0.1, **options), some_params(), steps=1)
    expected = jax.tree.map(lambda new, w: new - RATE * 0.1 * w * (decay_all or w.ndim >= 2), plain, some_params())
    assert_close(decayed, expected)


@pytest.mark.parametrize("name", RULES)
def test_state_is_arrays_and_keeps_its_types(name):
    params = some_params()
    options = config.Optimizer(name=name, frozen=("stage1/norm",), weight_decay=0.1, clip_norm=1.0)
    _, state = trained(options, params, steps=2)
    first = optimizers.optimizer(options, lambda step: RATE, params).init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), first)


@pytest.mark.parametrize("name", ("sgd", "lars"))
def test_learning_rate_follows_the_schedule(name):
    params = some_params()
    after, _ = trained(config.Optimizer(name=name), params, steps=3, rate=lambda step: jnp.where(step < 2, 0.0, RATE))
    still, _ = trained(config.Optimizer(name=name), params, steps=2, rate=lambda step: jnp.where(step < 2, 0.0, RATE))
    assert_close(still, params)
    assert not np.allclose(after["head"]["kernel"], params["head"]["kernel"], rtol=0, atol=1e-7)


def test_unknown_names():
    with pytest.raises(UserError, match="no optimizer 'sdg'"):
        optimizers.optimizer(config.Optimizer(name="sdg"), lambda step: RATE, some_params())
    with pytest.raises(UserError, match="no schedule 'cosin'"):
        optimizers.schedule(config.Schedule(name="cosin"), 1.0, 10, 1)(0)


# --- Clipping, masks, frozen parameters -------------------------------------------------------------------------------


def test_clipping_by_the_global_norm():
    params = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    update = lambda g: first_update(config.Optimizer(momentum=0.0, clip_norm=6.5), params, g, rate=1.0)
    large = update({"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])})  # of norm 13
    np.testing.assert_allclose(large["a"], [-1.5, -2.0], rtol=1e-6)
    np.testing.assert_allclose(large["b"], [[-6.0]], rtol=1e-6)
    np.testing.assert_array_equal(update({"a": jnp.array([3.0, 4.0]), "b": jnp.zeros((1, 1))})["a"], [-3.0, -4.0])


def test_decay_mask():
    one_layer = {"kernel": True, "bias": False}
    expected = {"stage1": {"conv": one_layer, "norm": {"scale": False, "bias": False}}, "head": one_layer}
    assert optimizers.decay_mask(some_params(), False) == expected
    assert all(jax.tree.leaves(optimizers.decay_mask(some_params(), True)))


@pytest.mark.parametrize(
    "patterns, frozen",
    [
        (("stage1",), {"stage1/conv/kernel", "stage1/conv/bias", "stage1/norm/scale", "stage1/norm/bias"}),
        (("stage1/*",), {"stage1/conv/kernel", "stage1/conv/bias", "stage1/norm/scale", "stage1/norm/bias"}),
        (("stage?/n*",), {"stage1/norm/scale", "stage1/norm/bias"}),
        (("head/kernel",), {"head/kernel"}),
        (("*/bias", "head"), {"stage1/conv/bias", "stage1/norm/bias", "head/bias", "head/kernel"}),
        ((), set()),
    ],
)
def test_frozen_mask(patterns, frozen):
    mask = optimizers.frozen_mask(some_params(), patterns)
    assert jax.tree.structure(mask) == jax.tree.structure(some_params())
    paths = jax.tree_util.tree_leaves_with_path(mask)
    assert {jax.tree_util.keystr(path, simple=True, separator="/") for path, is_frozen in paths if is_frozen} == frozen


@pytest.mark.parametrize(
    "patterns, message",
    [
        (("head", "stge1"), r"config\.optimizer\.frozen: 'stge1' matches no parameter\. Did you mean stage1\?"),
        (("stage1/conv/kernal",), r"Did you mean stage1/conv/kernel\?"),
        (("xyz",), r"'xyz' matches no parameter\. There are head, stage1\."),
        (("STAGE1",), r"'STAGE1' matches no parameter"),
        (("stage",), r"'stage' matches no parameter\. Did you mean stage1\?"),
        (("stage1", "head/*"), r"\('stage1', 'head/\*'\) leaves nothing to train"),
        (("*",), "leaves nothing to train"),
    ],
)
def test_frozen_mask_says_what_is_wrong(patterns, message):
    with pytest.raises(UserError, match=message):
        optimizers.frozen_mask(some_params(), patterns)


@pytest.mark.parametrize("name", RULES)
def test_frozen_parameters_stay_and_take_no_memory(name):
    params = some_params()
    options = config.Optimizer(name=name, weight_decay=0.1, clip_norm=1.0, frozen=("stage1",))
    after, state = trained(options, params)
    jax.tree.map(np.testing.assert_array_equal, after["stage1"], params["stage1"])
    # The rest is trained as if it were alone: the same values, the same norm that is clipped, as much memory.
    rest = {"head": params["head"]}
    gradients = lambda alone, n: {"head": some_gradients(params, n)["head"]}
    options = config.Optimizer(name=name, weight_decay=0.1, clip_norm=1.0)
    alone, alone_state = trained(options, rest, gradients=gradients)
    assert_close(after["head"], alone["head"])
    shapes = lambda tree: sorted(leaf.shape for leaf in jax.tree.leaves(tree))
    assert shapes(state) == shapes(alone_state)


def test_a_frozen_gradient_that_is_not_finite_does_no_harm():
    params = some_params()
    gradients = some_gradients(params, 0)
    gradients["stage1"] = jax.tree.map(lambda g: g * np.nan, gradients["stage1"])
    updates = first_update(config.Optimizer(clip_norm=1.0, frozen=("stage1",)), params, gradients)
    assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))
    assert not any(u.any() for u in jax.tree.leaves(updates["stage1"]))


# --- Schedules --------------------------------------------------------------------------------------------------------


def rates(options, steps, peak=2.0, total=20, per_epoch=4.0):
    rate = jax.jit(optimizers.schedule(options, peak, total, per_epoch))
    return np.array([rate(step) for step in steps])


@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(name="constant"), {0: 2.0, 7: 2.0, 19: 2.0, 99: 2.0}),
        (dict(name="plateau"), {0: 2.0, 19: 2.0}),
        (dict(name="constant", warmup=1), {0: 0.5, 1: 1.0, 2: 1.5, 3: 2.0, 4: 2.0, 19: 2.0}),
        (dict(name="constant", warmup=5, unit="steps"), {0: 0.4, 1: 0.8, 4: 2.0, 5: 2.0}),
        (dict(name="step", boundaries=(2, 4)), {0: 2.0, 7: 2.0, 8: 0.2, 15: 0.2, 16: 0.02, 50: 0.02}),
        (dict(name="step", boundaries=(2, 4), factor=0.5, unit="steps"), {1: 2.0, 2: 1.0, 3: 1.0, 4: 0.5, 50: 0.5}),
        (dict(name="step", boundaries=(0.5, 2), warmup=1), {0: 0.5, 1: 1.0, 2: 0.15, 3: 0.2, 8: 0.02}),
        (dict(name="cosine"), {0: 2.0, 5: 1 + np.sqrt(0.5), 10: 1.0, 15: 1 - np.sqrt(0.5), 20: 0.0, 99: 0.0}),
        (dict(name="cosine", final=0.1), {0: 2.0, 10: 1.1, 20: 0.2, 99: 0.2}),
        (dict(name="cosine", warmup=1), {0: 0.5, 3: 2.0, 4: 2.0, 12: 1.0, 20: 0.0}),
        (dict(name="one_cycle"), {0: 1 / 3, 5: 2.0, 6: 2.0, 13: 1.0, 20: 0.0, 99: 0.0}),
        (dict(name="one_cycle", warmup=10, unit="steps", final=0.5), {0: 0.2, 9: 2.0, 15: 1.5, 20: 1.0, 21: 1.0}),
        (dict(name="constant", warmup=5), {0: 0.1, 19: 2.0, 20: 2.0}),  # a warm-up as long as the run
    ],
)
def test_schedule_values(options, expected):
    options = config.Schedule(**options)
    np.testing.assert_allclose(rates(options, expected), list(expected.values()), rtol=1e-5, atol=1e-6)


def test_epochs_of_a_broken_number_of_steps():
    options = config.Schedule(name="step", boundaries=(2,))
    np.testing.assert_allclose(rates(options, (6, 7), per_epoch=3.4), [2.0, 0.2], rtol=1e-6)  # 6.8 steps: 7


STEPS = jnp.arange(5000)  # always as many, so that nothing is compiled anew


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(("constant", "step", "cosine", "one_cycle", "plateau")),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
    factor=st.floats(0.01, 0.99),
    peak=st.floats(1e-6, 100),
    total=st.integers(1, 3000),
)
def test_schedules_stay_between_zero_and_the_peak(name, warmup, final, factor, peak, total):
    options = config.Schedule(
        name=name, unit="steps", warmup=warmup * total, final=final, factor=factor, boundaries=(total / 3, total / 2)
    )
    knobs.check(options)
    values = np.asarray(optimizers.schedule(options, peak, total, 1.0)(STEPS))
    assert values.dtype == np.float32
    assert (values >= 0).all() and (values <= np.float32(peak)).all()
    assert (values[:total] > 0).all()  # no step of the run is wasted
    assert (values[total:] == values[-1]).all()  # and after it the rate stays


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(warmup=5.5), r"config\.schedule\.warmup = 5\.5 epochs is 22 steps, but the run has only 20\."),
        (dict(warmup=21, unit="steps"), "21 steps is 21 steps"),
        (dict(name="step"), r"needs config\.schedule\.boundaries"),
        (dict(name="step", boundaries=(2, 2)), r"boundaries must increase, not \(2, 2\)"),
        (dict(name="step", boundaries=(4, 2)), "must increase"),
    ],
)
def test_schedules_that_cannot_work(options, message):
    with pytest.raises(UserError, match=message):
        optimizers.schedule(config.Schedule(**options), 1.0, 20, 4.0)


# --- Plateau and average ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", (1, -1), ids=("accuracy", "loss"))
def test_plateau_by_hand(sign):
    update = jax.jit(
        lambda plateau, score: optimizers.plateau_update(
            plateau, score, patience=2, factor=0.5, higher_is_better=sign > 0
        ),
        donate_argnums=0,
    )
    plateau = optimizers.plateau_start(sign > 0)
    assert plateau.best == -sign * np.inf
    nan = float("nan")
    # score, then best, waited and scale after it
    story = [
        (nan, -np.inf, 1, 1.0),
        (0.5, 0.5, 0, 1.0),
        (0.5, 0.5, 1, 1.0),  # an equal score is not better
        (0.6, 0.6, 0, 1.0),
        (0.4, 0.6, 1, 1.0),
        (nan, 0.6, 0, 0.5),  # the second in a row
        (0.1, 0.6, 1, 0.5),
        (0.2, 0.6, 0, 0.25),
        (0.7, 0.7, 0, 0.25),
    ]
    for score, best, waited, scale in story:
        plateau = update(plateau, sign * score)
        np.testing.assert_allclose(plateau, (sign * best, waited, scale), rtol=1e-6)
        assert [x.dtype for x in plateau] == [jnp.float32, jnp.int32, jnp.float32]


def test_waiting_counts_on_for_early_stopping():
    best, waited = jnp.float32(-jnp.inf), jnp.int32(0)
    counts = []
    for score in (0.1, 0.3, 0.2, float("nan"), 0.3, 0.4):
        best, waited = optimizers.waited_update(best, waited, score, higher_is_better=True)
        counts.append(int(waited))
    assert counts == [0, 0, 1, 2, 3, 0]


def test_ema_by_hand():
    update = jax.jit(lambda ema, params, step: optimizers.ema_update(ema, params, 0.15, step), donate_argnums=0)
    ema = {"w": jnp.array([1.0, 2.0])}
    ema = update(ema, {"w": jnp.array([2.0, 0.0])}, 0)  # decay 1/10
    np.testing.assert_allclose(ema["w"], [1.9, 0.2], rtol=1e-6)
    ema = update(ema, {"w": jnp.array([0.0, 0.0])}, jnp.int32(1))  # 2/11 is above 0.15
    np.testing.assert_allclose(ema["w"], [0.285, 0.03], rtol=1e-6)
    assert ema["w"].dtype == jnp.float32


def test_ema_warms_up():
    ones, zeros = {"w": jnp.ones(1)}, {"w": jnp.zeros(1)}
    decay = [float(optimizers.ema_update(ones, zeros, 0.99, step)["w"][0]) for step in (0, 8, 1000)]
    np.testing.assert_allclose(decay, [0.1, 0.5, 0.99], rtol=1e-6)

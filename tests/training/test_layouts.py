"""One step, the same numbers on any layout of devices; and what the compiled step moves between them."""

import functools
import math
import os
import subprocess

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import benchmark, device_memory, kernels, layers, parallel
from cnnjax.data import pipeline
from cnnjax.errors import RunError, UserError
from cnnjax.training.initial import initial_state
from cnnjax.training.logbook import read_entries
from cnnjax.training.loop import train_step_for
from experiments.measurements import layouts
from tests.forked import Forked
from tests.several import environment
from tests.training.short_runs import saved, small_config, train
from tests.undrawn import no_pictures

STEPS = layouts.STEPS if os.environ.get("CNNJAX_TEST_ALL") else 5
ALONE = "jit, 1 device"
OTHERS = [name for name in layouts.LAYOUTS if name != ALONE]
WITH_RANDOMNESS = [name for name in OTHERS if not name.startswith("pmap")]


@functools.cache
def outcome(name, random, dtype):
    chosen = dict(layouts.RANDOM, mixup=1.0) if random else {}  # Beta(1, 1) compiles much sooner than Beta(0.4, 0.4)
    # Normalisation is computed in float32, which two programs may round differently.
    data = dict(normalization="none") if dtype == jnp.float64 else {}
    with jax.enable_x64(dtype == jnp.float64):
        return layouts.train(layouts.LAYOUTS[name], random=chosen, dtype=dtype, steps=STEPS, **data)


@pytest.mark.parametrize(
    "random,name",
    [(n in WITH_RANDOMNESS, n) for n in OTHERS if n != "jit, fsdp=8"]
    + [pytest.param(True, "jit, fsdp=8", marks=pytest.mark.slow)]  # as data=2 x fsdp=4
    + [pytest.param(False, n, marks=pytest.mark.slow) for n in WITH_RANDOMNESS],
)
def test_layouts_agree_in_float64(random, name):
    one, other = (outcome(n, random, jnp.float64) for n in (ALONE, name))
    assert other.state["params"]["output"]["kernel"].dtype == np.float64
    assert layouts.distance(one.losses, other.losses) < 1e-9 and layouts.distance(one.state, other.state) < 1e-9
    assert layouts.same_counts(one.counts, other.counts) and one.counts["count"] == 899
    assert other.losses[-1] < other.losses[0]


# What differs is rounding, of which float64 above leaves none: one layout of each kind of step, the others by hand.
ROUNDED = ("jit, data=2 x fsdp=4", "pmap, data=8")


@pytest.mark.parametrize("name", [n if n in ROUNDED else pytest.param(n, marks=pytest.mark.slow) for n in OTHERS])
def test_layouts_agree_in_float32(name):
    one, other = (outcome(n, False, jnp.float32) for n in (ALONE, name))
    assert layouts.distance(one.losses, other.losses) < 1e-4
    assert layouts.same_counts(one.counts, other.counts)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_pmap_drops_other_units_on_each_device(dropout):
    """On eight equal parts of a batch, masks that were alike would give eight times the loss of one part alone."""

    def loss(batch_size, copies, **layout):
        everything = dict(devices=0) | layout
        config = small_config(
            model__dropout=dropout, batch_size=batch_size, input__augmentation__shift=0.0, **everything
        )
        exp = cnnjax.build(config)
        state = parallel.place_state(exp.layout, initial_state(exp))
        step = parallel.compile_train_step(exp.layout, train_step_for(exp), state)
        part = pipeline.TrainBatch(exp.train, 0, 8)(0)
        batch = {name: np.concatenate([array] * copies) for name, array in part.items()}
        return float(step(state, parallel.place_for_training(exp.layout, batch))[1]["loss"]) / copies

    alike = loss(64, 8, compile_with="pmap") == pytest.approx(loss(8, 1, devices=1), rel=1e-5)
    assert alike == (dropout == 0)


def sides(shape):
    """A shape, however XLA has turned it."""
    return tuple(sorted(shape))


def gradient_sides(state):
    return sorted(sides(leaf.shape) for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1)


def small_sums(exp):
    """What else may be added up: metrics, biases, and BatchNorm's sums (under pmap of two statistics at once)."""
    channels = exp.config.model.channels
    return {(), (10,), *((n,) for n in channels), *((2, n) for n in channels)}


def bytes_beside(exp):
    """BatchNorm has two sums a channel forward and at most three backward; metrics are less than ten numbers."""
    return 4 * (5 * sum(exp.config.model.channels) + 10)


@pytest.mark.parametrize("name", ["jit, data=8", "pmap, data=8"])
def test_data_parallel_steps_add_up_each_gradient_once_and_move_nothing_else(name):
    text, state, exp = layouts.compiled_step(layouts.LAYOUTS[name])
    calls = layouts.collectives(text)
    assert {kind for kind, _ in calls} == {"all-reduce"}
    moved = [sides(shape) for _, arrays in calls for _, shape in arrays]
    assert sorted(shape for shape in moved if shape not in small_sums(exp)) == gradient_sides(state)
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))
    assert gradients <= layouts.moved(text)["all-reduce"] <= gradients + bytes_beside(exp)


@pytest.mark.parametrize("name, times", [("jit, data=8", 2), ("pmap, data=8", 1)])
def test_accumulated_gradients_are_added_up_once_a_part_by_jit_and_once_a_step_by_pmap(name, times):
    """As the help of config.accumulate says."""
    text, state, exp = layouts.compiled_step(layouts.LAYOUTS[name], accumulate=2)
    added = [sides(s) for kind, arrays in layouts.collectives(text) if kind == "all-reduce" for _, s in arrays]
    kernels = [shape for shape in added if shape not in small_sums(exp)]
    assert sorted(kernels) == sorted(gradient_sides(state) * times)


@pytest.mark.parametrize("name", ["jit, fsdp=8", "jit, data=2 x fsdp=4"])
def test_fsdp_steps_gather_parameters_and_scatter_gradients(name):
    text, state, exp = layouts.compiled_step(layouts.LAYOUTS[name])
    rows, parts = exp.layout.mesh.shape["data"], exp.layout.mesh.shape["fsdp"]
    sharded = [leaf for leaf in jax.tree.leaves(state.params) if leaf.sharding.shard_shape(leaf.shape) != leaf.shape]
    assert [leaf.shape for leaf in sharded] == [(3, 3, 16, 32)]
    calls, moved = layouts.collectives(text), layouts.moved(text)
    gathered = [shape for kind, arrays in calls if kind == "all-gather" for _, shape in arrays]
    assert gathered == [(3, 3, 16, 32)] * 2  # forward, and again backward: the whole kernel is kept by none
    # On a CPU XLA writes a reduce-scatter as all-reduce and slice; the parts are then added up over the rows of the mesh.
    assert set(moved) == {"all-gather", "all-reduce"}
    added = [sides(shape) for kind, arrays in calls if kind == "all-reduce" for _, shape in arrays]
    part = [(3, 3, *sorted((16, 32 // parts)))] if rows > 1 else []
    assert sorted(shape for shape in added if shape not in small_sums(exp)) == sorted(gradient_sides(state) + part)
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))
    parts_bytes = 4 * sum(math.prod(shape) for shape in part)
    assert gradients <= moved["all-reduce"] - parts_bytes <= gradients + bytes_beside(exp)


class Pooled(nn.Module):
    """Layers for which GPUs have kernels of their own."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = layers.LocalResponseNorm()(nn.Conv(16, (3, 3))(x))
        x = layers.ConvTranspose(8, (2, 2), strides=(2, 2))(x)
        return nn.Dense(10)(layers.MaxPool((3, 3), (2, 2))(x).mean((1, 2)))


@pytest.mark.parametrize("layout", [{}, dict(fsdp=8), dict(compile_with="pmap")], ids=["jit", "fsdp", "pmap"])
def test_the_kernels_of_gpus_are_divided_among_devices(layout):
    def losses(path, **layout):
        layout = parallel.layout(**layout)._replace(kernels=path)
        step, state, batch = benchmark.training_of(Pooled(), (17, 16, 3), 16, layout)
        lowered = parallel.compile_train_step(layout, step, state).lower(state, batch)
        compiled, found = lowered.compile(), []
        for _ in range(3):
            state, metrics = compiled(state, batch)
            found.append(float(metrics["loss"]))
        return found, lowered.as_text(), compiled.as_text()

    expected, scattered, _ = losses(kernels.XLA, devices=1)
    found, operations, program = losses(kernels.GPU, **layout)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "select_and_scatter" in scattered and "scatter" not in operations  # as XLA has the gradient of a maximum
    moved = [shape for _, arrays in layouts.collectives(program) for _, shape in arrays]
    assert max(map(math.prod, moved)) == 2 * 2 * 16 * 8, "the largest layer's parameters, no activations"


def test_what_each_device_holds_is_said_and_true(tmp_path):
    config = small_config(devices=0, fsdp=4, steps=1, ema_decay=0.9)
    config.model.channels = (8, 64)
    exp, lines = cnnjax.build(config), []
    with no_pictures():
        cnnjax.fit(exp, tmp_path, log=lines.append)
    (line,) = [line for line in lines if line.startswith("layout")]
    # By hand. Parameters: 3x3x1x8 = 72; BatchNorm 2x8, 2x64; 3x3x8x64 = 4608, a quarter of it; 64x10 + 10.
    parameters = 72 + 16 + 128 + 4608 / 4 + 640 + 10
    held = 4 * (2 * parameters + 16 + 128)  # twice with the moving average; running mean and variance besides
    momentum = 4 * (parameters + 1)  # and the schedule's count
    assert line == (
        f"layout  jit, data=2 x fsdp=4: each device holds {held / 1e6:,.2f} MB of parameters, "
        f"{momentum / 1e6:,.2f} MB of optimizer state, and 8 of a batch"
    )


def test_shardings_go_by_shape():
    layout = parallel.layout(8, fsdp=4)
    specs = jax.tree.map(
        lambda s: tuple(s.spec),
        parallel.shardings(
            layout, {n: jax.ShapeDtypeStruct(s, "float32") for n, s in dict(
                last=(3, 3, 64, 64), longest=(128, 64), odd=(33, 5, 7), small=(4, 8), divisible=(1023, 4)).items()}
        ),
    )  # fmt: skip
    assert specs == dict(last=(None, None, None, "fsdp"), longest=("fsdp",), odd=(), small=(), divisible=(None, "fsdp"))


CHANGES = {
    "fsdp": dict(devices=8, fsdp=8),
    "mixed": dict(devices=8, fsdp=2),
    "one": dict(devices=1),
    "three": dict(devices=3),
    "pmap": dict(devices=8, compile_with="pmap"),
}


BY_HAND = [("fsdp", to) for to in ("one", "three", "mixed")] + [
    (old, "fsdp") for old in ("one", "three", "mixed", "pmap")
]


@pytest.mark.parametrize(
    "first,then", [("fsdp", "pmap"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in BY_HAND)]
)
def test_a_run_goes_on_with_another_layout(tmp_path, first, then):
    same = dict(
        batch_size=48,
        data__test="",
        model__channels=(8, 32),
        model__dropout=0.0,
        ema_decay=0.9,
        optimizer__name="adamw",
        optimizer__learning_rate=0.001,
    )
    train(tmp_path / "whole", **same, devices=1)
    train(tmp_path / "changed", **same, **CHANGES[first], steps=8)
    _, log = train(tmp_path / "changed", **same, **CHANGES[then])
    assert "Going on from step 8 of 12." in log
    old, new = (dict(devices=0, fsdp=1, compile_with="jit") | CHANGES[n] for n in (first, then))
    for name in old:
        assert (f"config.{name} was {old[name]!r}, now {new[name]!r}" in log) == (old[name] != new[name])
    losses = [[e["loss"] for e in read_entries(tmp_path / n) if e["split"] == "train"] for n in ("whole", "changed")]
    np.testing.assert_allclose(*losses, atol=1e-4)
    a, b = (saved(tmp_path / n) for n in ("whole", "changed"))
    assert layouts.distance(a, b) < 1e-3 and jax.tree.structure(a) == jax.tree.structure(b)


@pytest.mark.parametrize("layout, placement", [
    ("fsdp", "device"),
    pytest.param("fsdp", "stream", marks=pytest.mark.slow),
    pytest.param("pmap", "device", marks=pytest.mark.slow),
    pytest.param("pmap", "stream", marks=pytest.mark.slow),
])  # fmt: skip
def test_the_place_of_the_data_changes_no_number_on_any_layout(tmp_path, layout, placement):
    same = dict(model__channels=(8, 32), steps=4, **CHANGES[layout])
    train(tmp_path / "host", data__placement="host", **same)
    train(tmp_path / placement, data__placement=placement, **same)
    assert layouts.distance(saved(tmp_path / "host"), saved(tmp_path / placement)) == 0


def test_a_checkpoint_of_eight_devices_is_read_by_a_process_that_has_one(tmp_path):
    train(tmp_path, steps=4, devices=8, fsdp=8, model__channels=(8, 32))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = Forked(["evaluate", f"--workdir={tmp_path}", "--split=validation"], environment(1), **pipes)
    out, err = process.communicate()
    assert process.returncode == 0 and "with the parameters of step 4" in out, err


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(devices=9), "config.devices is 9, but there are 8"),
        (dict(fsdp=3), "config.fsdp=3 does not divide the 8 devices: take one of 1, 2, 4, 8, or 0"),
        (dict(fsdp=16), "config.fsdp=16 does not divide the 8 devices"),
        (
            dict(compile_with="pmap", fsdp=2),
            "config.compile_with=pmap cannot do config.fsdp: take config.compile_with=jit",
        ),
        (dict(compile_with="pmap", deterministic=True), "config.compile_with=pmap cannot do config.deterministic"),
        (dict(compile_with="vmap"), "config.compile_with"),
        (dict(batch_size=60), "config.batch_size=60 is not divisible by the 8 devices: take 64"),
    ],
)
def test_layouts_that_cannot_be(changes, message):
    with pytest.raises(UserError) as error:
        cnnjax.build(small_config(**dict(devices=0) | changes))
    assert message in str(error.value)


def test_parts_of_a_batch_must_divide_among_devices_too():
    layout = parallel.layout(8)
    parallel.check_divisible(layout, 32, "batch_size", parts=4)
    with pytest.raises(
        UserError, match="config.batch_size=16 is not divisible by the 8 devices times config.accumulate=4: take 32"
    ):
        parallel.check_divisible(layout, 16, "batch_size", parts=4)


def test_the_memory_of_the_old_state_is_used_for_the_new_one():
    layout, old = parallel.layout(1, kernels="xla"), dict(a=jnp.ones(1000))
    state = parallel.place_state(layout, old)
    step = parallel.compile_train_step(layout, lambda state, batch: (jax.tree.map(jnp.negative, state), {}), state)
    step(state, parallel.place(layout, dict(x=jnp.ones(4))))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_only_a_lack_of_memory_is_called_so():
    with pytest.raises(RunError, match="too little memory: RESOURCE_EXHAUSTED: 9 GB"), device_memory.memory_errors():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), device_memory.memory_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: else")

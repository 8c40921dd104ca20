"""Every registered network goes through the same tests, in its narrow form; at full size behind the marker slow.

What can be followed by shapes is tested of all networks in every run; what has to be compiled, of one network a family,
but for GoogLeNet, which takes longest.
"""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import knobs, layers, models, parallel
from cnnjax.errors import UserError
from cnnjax.inspection.certificate import certify
from cnnjax.inspection.field_of_view import field_of_view
from cnnjax.inspection.findings import dead_parameters
from cnnjax.inspection.layer_table import layer_table, output_of
from cnnjax.models import cnn
from cnnjax.run_directory.checkpoint import Checkpoints
from tests.conftest import give_back
from tests.models.networks import CLASSES, DISTINCT, EACH_FAMILY, unoptimized, without_chance

SHAPE = (4, 16, 16, 1)
SIDE, BATCH = 32, 8  # one example for each of eight devices
LABELS = jnp.array([0, 1, 2, 0, 1, 2, 0, 1])
AT_MOST = 150  # steps to learn a batch by heart


def loss_of(model, variables, images, labels):
    """(loss, (new statistics, logits)) in training, the mean over this part of a batch; every head counts once."""
    rngs = dict(dropout=jax.random.key(2))
    outputs, changed = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
    heads = (outputs["logits"], *outputs["auxiliary"]) if isinstance(outputs, dict) else (outputs,)
    loss = sum(optax.softmax_cross_entropy_with_integer_labels(head, labels).mean() for head in heads)
    return loss, (changed, heads[0])


def gradients_of(model, variables, images, labels):
    """((loss, (new statistics, logits)), gradients of the parameters)."""
    loss = lambda params: loss_of(model, variables | dict(params=params), images, labels)
    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


class Narrow:
    """A network in its narrow form. What takes long is worked out once."""

    optimizer = optax.adam(3e-3)

    def __init__(self, name):
        self.options = without_chance(name)
        self.model = self.options.build(CLASSES)
        self.least = models.least_size(self.options)
        self.side = max(self.least, min(SIDE, self.options.input_shape[0]))
        self.images = jax.random.normal(jax.random.key(0), (BATCH, self.side, self.side, 3))

    @functools.cached_property
    def variables(self):
        return unoptimized(self.model.init)(jax.random.key(1), self.images)

    @functools.cached_property
    def step(self):
        """`step(variables, optimizer state) -> (variables, optimizer state, loss, logits, gradients)`, compiled."""

        @unoptimized
        def step(variables, state):
            (loss, (changed, logits)), gradients = gradients_of(self.model, variables, self.images, LABELS)
            updates, state = self.optimizer.update(gradients, state)
            params = optax.apply_updates(variables["params"], updates)
            return variables | changed | dict(params=params), state, loss, logits, gradients

        return step

    @functools.cached_property
    def first_step(self):
        """(loss, gradients)"""
        _, _, loss, _, gradients = self.step(self.variables, self.optimizer.init(self.variables["params"]))
        return loss, gradients

    def shapes(self, height, width, train=False, dtype=jnp.float32):
        """Shapes of (variables, outputs, what each layer gives) on two images of a size. Nothing is computed."""
        model, images = self.options.build(CLASSES, dtype=dtype), jnp.zeros((2, height, width, 3))
        rngs = dict(params=jax.random.key(0), dropout=jax.random.key(1))
        kept = dict(mutable=["batch_stats", "intermediates"], capture_intermediates=True)

        def run():
            variables = model.init(rngs, images)
            outputs, changed = model.apply(variables, images, train=train, rngs=rngs, **kept)
            return variables, outputs, changed["intermediates"]

        return jax.eval_shape(run)


@functools.cache
def _narrow(name):
    return Narrow(name)


@pytest.fixture
def narrow(name):
    return _narrow(name)


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("name", DISTINCT)
class TestEveryModelByShapes:
    @pytest.mark.parametrize("dtype, train, more", [
        pytest.param(jnp.bfloat16, False, (0, 0), id="bfloat16, of the least size"),
        pytest.param(jnp.float32, True, (5, 11), id="float32, of any sides, in training"),
    ])  # fmt: skip
    def test_layers_compute_in_the_type_that_was_asked_for_and_logits_are_float32(self, narrow, dtype, train, more):
        sides = (narrow.least + n for n in more)
        variables, outputs, layers = narrow.shapes(*sides, train=train, dtype=dtype)
        assert {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(outputs)} == {((2, CLASSES), jnp.dtype("float32"))}
        assert train or isinstance(outputs, jax.ShapeDtypeStruct), "auxiliary heads are for training"
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        layers.pop("__call__")  # the logits
        assert {leaf.dtype for leaf in jax.tree.leaves(layers)} == {jnp.dtype(dtype)}

    def test_too_small_pictures_are_refused(self, narrow):
        if narrow.least > 1:  # padding lets many networks end on one position
            for height, width in ((narrow.least - 1, narrow.least), (narrow.least, narrow.least - 1)):
                with pytest.raises(UserError, match="pictures of at least|too small"):
                    narrow.shapes(height, width)

    def test_no_parameter_is_dead(self, narrow):
        assert dead_parameters(narrow.model, narrow.images, train=True) == []

    def test_remat_is_there_and_keeps_the_parameters(self, narrow):
        shapes = jax.eval_shape(narrow.model.init, jax.random.key(1), narrow.images)
        remat = functools.partial(gradients_of, narrow.options.build(CLASSES, remat=True))
        program, (_, gradients) = jax.make_jaxpr(remat, return_shape=True)(shapes, narrow.images, LABELS)
        assert gradients == shapes["params"]
        assert any("remat" in equation.primitive.name for equation in program.eqns)


@pytest.mark.parametrize("name", EACH_FAMILY)
class TestOneOfEachFamily:
    def test_the_gradient_reaches_every_parameter(self, narrow):
        for path, gradient in leaves(narrow.first_step[1]):
            assert float(jnp.abs(gradient).max()) > 0, path

    def test_one_batch_is_learnt_by_heart(self, narrow):
        variables, state = narrow.variables, narrow.optimizer.init(narrow.variables["params"])
        for _ in range(AT_MOST):
            variables, state, _, logits, _ = narrow.step(variables, state)
            if (logits.argmax(-1) == LABELS).all():
                return
        pytest.fail(f"After {AT_MOST} steps it says {logits.argmax(-1)}, not {LABELS}.")

    def test_the_field_of_view_is_certified(self, name):
        """Of the last layer with positions, gates cut, along the first axis of an input that is longer than it sees; along
        both where all tests are run."""
        options = without_chance(name)
        model, (*_, channels) = options.build(CLASSES), options.input_shape
        least = models.least_size(options)
        small, large = (LENET_ONLY,) * 2 if name == "lenet5" else (max(least, 32), max(least, 32) + 96)
        image = lambda height, width: jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        table = layer_table(model, image(large, large), cut_gates=True, train=False)
        last = [row for row in table.rows if len(row.shape) == 4][-1]
        view = last.field_of_view[0]
        long = small if name == "lenet5" else max(small, view.size + 3 * view.stride)
        function = lambda x, v: output_of(model, v, last.name, x, train=False)
        for height, width in ((long, small), (small, long))[: 2 if ALL else 1]:
            shape = image(height, width)
            init = functools.partial(model.init, train=False)
            variables = unoptimized(init)(jax.random.key(0), jnp.zeros(shape.shape))
            views = field_of_view(function, shape, variables)
            certificate = certify(lambda x, v=variables: function(x, v), shape, views)
            assert certificate.failures == () and certificate.probes >= 8


ALL = bool(os.environ.get("CNNJAX_TEST_ALL"))
LENET_ONLY = 32  # pixels: what it takes at most

# On eight devices, and made anew in the backward pass: three kinds of blocks in every run, the others by hand.
IN_EVERY_RUN = ("cnn", "resnet18", "mobilenetv2")
COSTLY = [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.slow) for n in DISTINCT]
assert set(IN_EVERY_RUN) < set(DISTINCT)


@pytest.mark.parametrize("name", COSTLY)
class TestOnEightDevices:
    def test_jit_over_a_mesh_gives_the_loss_of_one_device(self, narrow):
        """The parameters are divided among pairs of devices, as FSDP does."""
        layout = parallel.layout(8, fsdp=2)
        batch = parallel.place(layout, dict(images=narrow.images, labels=LABELS))
        program = unoptimized(lambda variables, images, labels: loss_of(narrow.model, variables, images, labels)[0])
        loss = program(parallel.place_state(layout, narrow.variables), **batch)
        np.testing.assert_allclose(loss, narrow.first_step[0], rtol=1e-3)

    def test_pmap_gives_the_loss_of_one_device(self, narrow):
        """One example on each: BatchNorm must see the whole batch."""

        def part(variables, images, labels):
            with layers.batch_axis("data"):
                return jax.lax.pmean(loss_of(narrow.model, variables, images, labels)[0], "data")

        split = lambda x: x.reshape(8, 1, *x.shape[1:])
        program = jax.pmap(part, axis_name="data", in_axes=(None, 0, 0), out_axes=None)
        loss = program(narrow.variables, split(narrow.images), split(LABELS))
        np.testing.assert_allclose(loss, narrow.first_step[0], rtol=1e-3)


@pytest.mark.parametrize("name", COSTLY)
def test_remat_changes_no_number(narrow):
    model = narrow.options.build(CLASSES, remat=True)
    (loss, _), gradients = unoptimized(functools.partial(gradients_of, model))(narrow.variables, narrow.images, LABELS)
    np.testing.assert_allclose(loss, narrow.first_step[0], rtol=1e-5)
    for (path, a), (_, b) in zip(leaves(narrow.first_step[1]), leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * float(jnp.abs(a).max()) + 1e-6, err_msg=str(path))


def test_saved_and_restored_to_the_bit(tmp_path):
    """Of nested modules, with running statistics; what network they are of is all the same to a checkpoint."""
    variables = _narrow("resnet18").variables
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, variables, dict(step=jnp.int32(1)), {})
        checkpoints.poll(wait=True)
        restored = checkpoints.restore_model(checkpoints.chosen("last"))
    for (path, a), (other, b) in zip(leaves(variables), leaves(restored), strict=True):
        assert path == other
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", models.MODELS)
def test_options_are_valid_and_have_their_name(name):
    for options in (models.options(name), models.options(name).narrow()):
        knobs.check(options)
        assert models.name_of(options) == options.name == name
    assert models.options(name) == models.MODELS[name] is not models.options(name)


# Between two sizes of the same form, both of which take a step: minutes of compiling, for layers that were seen.
IN_BETWEEN = {f"efficientnet_b{n}" for n in range(1, 7)} | {f"vgg{n}{norm}" for n in (13, 16) for norm in ("", "_bn")}
IN_BETWEEN |= {"densenet169", "resnet34", "resnet101", "resnet34v2", "resnet101v2", "convnext_small"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in IN_BETWEEN])
def test_a_step_at_full_size_is_finite(name):
    options = models.options(name)
    model, images = options.build(1000), jax.random.normal(jax.random.key(0), (2, *options.input_shape))
    variables = unoptimized(model.init)(jax.random.key(1), images)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 1000)
    program = unoptimized(functools.partial(gradients_of, model))
    (loss, _), gradients = program(variables, images, jnp.array([1, 2]))
    assert np.isfinite(loss) and np.isfinite(optax.tree.norm(gradients))
    jax.clear_caches()
    give_back()


@pytest.mark.parametrize("name, side", [("cnn", 4), ("lenet5", 1), ("resnet50", 1), ("convnext_tiny", 32)])
def test_the_least_size_of_published_networks(name, side):
    """Three halvings leave 4 pixels one; padding lets a ResNet end on one; ConvNeXt divides by 4, 2, 2 and 2."""
    assert models.least_size(name) == models.least_size(models.options(name).narrow(), channels=1) == side


def test_lenet5_has_the_usual_parameters():
    """61,706: 6*(25+1) + 16*(6*25+1) + 120*(400+1) + 84*(120+1) + 10*(84+1)."""
    model = models.options("lenet5").build(10)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 156 + 2416 + 48120 + 10164 + 850 == 61706


def test_lenet5_refuses_large_pictures():
    with pytest.raises(UserError, match="config.input.size=32"):
        models.options("lenet5").build(10).init(jax.random.key(0), jnp.zeros((1, 33, 20, 1)))


def test_cnn_counts_by_hand():
    options = models.options("cnn")
    options.channels, options.blocks, options.hidden, options.normalization = (4, 8), 1, (5,), "none"
    variables = jax.eval_shape(lambda: options.build(3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2))))
    # 3x3 convolutions 2 -> 4 -> 8 with biases, 4x4x8 flattened -> 5 -> 3
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == (72 + 4) + (288 + 8) + (128 * 5 + 5) + (5 * 3 + 3)


DOWNSAMPLINGS = ("max", "average", "stride", "dilation", "none")


def cnn_logits(downsampling, normalization):
    """A function of images that initialises a CNN and applies it."""
    options = models.options("cnn")
    options.channels, options.dropout = (8, 8, 16), 0.5
    options.downsampling, options.normalization = downsampling, normalization
    rngs = dict(params=jax.random.key(0), dropout=jax.random.key(1))
    return lambda images: options.build(3).init_with_output(rngs, images, train=True)[0]


def test_every_pair_of_cnn_options_has_its_shape():
    for downsampling, normalization in itertools.product(DOWNSAMPLINGS, cnn.NORMALIZATIONS):
        logits = jax.eval_shape(cnn_logits(downsampling, normalization), jnp.ones(SHAPE))
        assert logits.shape == (4, 3), (downsampling, normalization)


@pytest.mark.parametrize("downsampling, normalization", list(zip(DOWNSAMPLINGS, itertools.cycle(cnn.NORMALIZATIONS))))
def test_cnn_options_give_numbers(downsampling, normalization):
    assert len(cnn.NORMALIZATIONS) <= len(DOWNSAMPLINGS)  # each of both stands in some pair
    assert bool(jnp.isfinite(unoptimized(cnn_logits(downsampling, normalization))(jnp.ones(SHAPE))).all())


@pytest.mark.parametrize(
    "downsampling, size, side",
    [("none", 13, 16), ("dilation", 29, 16), ("stride", 23, 4), ("max", 32, 4), ("average", 32, 4)],
)
def test_cnn_widens_its_field_of_view_as_it_is_told(downsampling, size, side):
    """Six 3x3 convolutions in three stages add 2 * 6; 4 * (1 + 2 + 4); 4 + 2 + 4 + 4 + 8; 4 + (1 + 8) + (2 + 16)."""
    options = models.options("cnn")
    options.channels, options.downsampling = (8, 8, 8), downsampling
    table = layer_table(options.build(3), jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), train=False)
    last = [row for row in table.rows if len(row.shape) == 4][-1]
    assert last.field_of_view[0].size == size and last.shape == (1, side, side, 8)
    assert table.parameters == 9 * 8 * (1 + 5 * 8) + 6 * 16 + 8 * 3 + 3


@pytest.mark.parametrize("connections", ["shared", "local", "full"])
def test_cnn_counts_at_equal_layer_sizes(connections):
    """LeCun 1989: 8x8x2 pixels, 8x8x4 and 4x4x6 units, 5 and 3. Units are alike; what differs is who is connected."""
    options = models.options("cnn")
    options.channels, options.blocks, options.hidden, options.normalization = (4, 6), 1, (5,), "none"
    options.downsampling, options.connections = "stride", connections
    table = layer_table(options.build(3), jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32), train=False)
    first, second = 9 * 2 * 4, 9 * 4 * 6  # weights of one position
    weights = dict(
        shared=first + 4 + second + 6,
        local=64 * (first + 4) + 16 * (second + 6),
        full=128 * 256 + 256 + 256 * 96 + 96,
    )
    work = 128 * 256 + 256 * 96 if connections == "full" else 64 * first + 16 * second
    assert table.parameters == weights[connections] + (96 * 5 + 5) + (5 * 3 + 3)
    assert table.macs == work + 96 * 5 + 5 * 3
    units = [row.shape for row in table.rows if row.type == "ReLU"]
    assert units == [(1, 8, 8, 4), (1, 4, 4, 6), (1, 5)]
    views = [row.field_of_view[0].size for row in table.rows if row.type == "ReLU"][:2]
    assert views == ([8, 8] if connections == "full" else [3, 5])


def test_cnn_with_the_same_kernel_everywhere_is_a_convolution():
    """The weights of a convolution laid down at each position; everything else is as it was."""
    options = models.options("cnn")
    options.channels, options.blocks, options.normalization, options.downsampling = (4, 6), 1, "none", "stride"
    images = jax.random.normal(jax.random.key(0), (2, 7, 7, 2))
    shared = options.build(3)
    options.connections = "local"
    local = options.build(3)
    params = shared.init(jax.random.key(1), images)["params"]
    spread = dict(params)
    for name, side in (("stage0_block0", 7), ("stage1_block0", 4)):
        kernel, bias = params[name]["Conv_0"]["kernel"], params[name]["Conv_0"]["bias"] + 0.1
        params[name]["Conv_0"]["bias"] = bias
        flat = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        everywhere = dict(kernel=jnp.tile(flat, (side, side, 1, 1)), bias=jnp.tile(bias, (side, side, 1)))
        spread[name] = dict(LocallyConnected_0=everywhere)
    expected = shared.apply(dict(params=params), images)
    np.testing.assert_allclose(local.apply(dict(params=spread), images), expected, atol=1e-5)


def test_cnn_puts_local_response_after_the_non_linearity():
    """AlexNet's order: a constant 2 of one channel, through a 1x1 convolution of -1 and 1, ReLU, b = a / (2 + 1e-4 a^2)^0.75."""
    options = models.options("cnn")
    options.channels, options.blocks, options.kernel_size, options.normalization = (2,), 1, 1, "local_response"
    params = dict(
        stage0_block0=dict(Conv_0=dict(kernel=jnp.array([-1.0, 1.0]).reshape(1, 1, 1, 2), bias=jnp.zeros(2))),
        output=dict(kernel=jnp.eye(2), bias=jnp.zeros(2)),
    )
    logits = options.build(2).apply(dict(params=params), jnp.full((1, 3, 3, 1), 2.0))
    np.testing.assert_allclose(logits, [[0.0, 2 / (2 + 1e-4 * 4) ** 0.75]], rtol=1e-5)


def test_cnn_refuses_pictures_that_vanish():
    with pytest.raises(UserError, match="at least 4x4"):
        models.options("cnn").build(3).init(jax.random.key(0), jnp.zeros((1, 2, 8, 1)))


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="There is no model 'lenet'. Did you mean lenet5"):
        models.options("lenet")

"""The classic networks layer by layer, as their papers have them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.inspection.field_of_view import field_of_view
from cnnjax.inspection.layer_table import layer_table


def table_of(name, classes=1000, size=None, **changes):
    options = dataclasses.replace(models.options(name), **changes)
    shape = options.input_shape if size is None else (size, size, options.input_shape[-1])
    return layer_table(options.build(classes), jax.ShapeDtypeStruct((1, *shape), jnp.float32), train=False)


# Layer, activations, learnables: Krizhevsky et al. 2012, for input 227x227x3. Two groups of 5x5x48 are one kernel 5x5x48x256.
ALEXNET = [
    ("conv1", (55, 55, 96), dict(kernel=(11, 11, 3, 96), bias=(96,))),
    ("relu1", (55, 55, 96), {}),
    ("norm1", (55, 55, 96), {}),
    ("pool1", (27, 27, 96), {}),
    ("conv2", (27, 27, 256), dict(kernel=(5, 5, 48, 128 * 2), bias=(256,))),
    ("relu2", (27, 27, 256), {}),
    ("norm2", (27, 27, 256), {}),
    ("pool2", (13, 13, 256), {}),
    ("conv3", (13, 13, 384), dict(kernel=(3, 3, 256, 384), bias=(384,))),
    ("relu3", (13, 13, 384), {}),
    ("conv4", (13, 13, 384), dict(kernel=(3, 3, 192, 192 * 2), bias=(384,))),
    ("relu4", (13, 13, 384), {}),
    ("conv5", (13, 13, 256), dict(kernel=(3, 3, 192, 128 * 2), bias=(256,))),
    ("relu5", (13, 13, 256), {}),
    ("pool5", (6, 6, 256), {}),
    ("flatten", (9216,), {}),
    ("fc6", (4096,), dict(kernel=(9216, 4096), bias=(4096,))),
    ("relu6", (4096,), {}),
    ("drop6", (4096,), {}),
    ("fc7", (4096,), dict(kernel=(4096, 4096), bias=(4096,))),
    ("relu7", (4096,), {}),
    ("drop7", (4096,), {}),
    ("fc8", (1000,), dict(kernel=(4096, 1000), bias=(1000,))),
]


def test_alexnet_as_published():
    table = table_of("alexnet")
    assert [(row.name, row.shape, row.learnables) for row in table.rows] == [
        (name, (1, *shape), learnables) for name, shape, learnables in ALEXNET
    ]
    assert table.parameters == 60_965_224
    types = {row.name: row.type for row in table.rows}
    assert (types["norm1"], types["pool1"], types["drop6"]) == ("LocalResponseNorm", "MaxPool", "Dropout")


def test_alexnet_begins_as_published():
    """N(0, 0.01); biases of 1 in conv2, conv4, conv5 and the hidden dense layers, 0 elsewhere (section 5)."""
    options = dataclasses.replace(models.options("alexnet"), width=1 / 8, hidden=512)
    params = jax.jit(options.build(5).init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))["params"]
    for name, layer in params.items():
        expected = 1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        np.testing.assert_array_equal(layer["bias"], expected)
        count = layer["kernel"].size
        assert abs(layer["kernel"].mean()) < 5 * 0.01 / count**0.5, name
        assert layer["kernel"].std() == pytest.approx(0.01, rel=5 / (2 * count) ** 0.5), name


def test_alexnet_normalises_with_the_papers_constants():
    from cnnjax import layers

    found = []
    options = models.options("alexnet").narrow()

    def note(call, args, kwargs, context):
        if isinstance(context.module, layers.LocalResponseNorm):
            found.append((context.module.n, context.module.k, context.module.alpha, context.module.beta))
        return call(*args, **kwargs)

    import flax.linen as nn

    with nn.intercept_methods(note):
        jax.eval_shape(options.build(5).init, jax.random.key(0), jnp.zeros((1, 67, 67, 3)))
    assert found == [(5, 2.0, 1e-4, 0.75)] * 2


def sizes(table, names):
    rows = {row.name: row.field_of_view for row in table.rows}
    assert all(height[:4] == width[:4] for height, width in (rows[name] for name in names))
    return [rows[name][0].size for name in names]


def test_alexnet_sees_11_to_195_pixels():
    names = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    assert sizes(table_of("alexnet"), names) == [11, 19, 51, 67, 99, 131, 163, 195]


def test_vgg16_sees_3_to_212_pixels():
    table = table_of("vgg16")
    names = ["conv1_1/conv", "pool1", "conv2_1/conv", "pool2", "conv3_1/conv", "pool3", "pool4", "pool5"]
    assert sizes(table, names) == [3, 6, 10, 16, 24, 44, 100, 212]
    assert sizes(table, ["conv4_1/conv", "conv4_2/conv"]) == [60, 76]
    pool5 = [row for row in table.rows if row.name == "pool5"][0]
    assert pool5.field_of_view[0].stride == 32 and pool5.shape == (1, 7, 7, 512)
    assert sizes(table, ["conv5_1/conv"]) == [132]


@pytest.mark.parametrize(
    "name, stride_in, size",
    [
        ("resnet50", "1x1", 483),
        ("resnet101", "1x1", 1027),
        ("resnet50", "3x3", 427),
        pytest.param("resnet101", "3x3", 971, marks=pytest.mark.slow),  # as deep as the second, as wide as the third
    ],
)
def test_resnets_see_what_was_published(name, stride_in, size):
    """Araujo, Norris & Sim 2019 for the first paper's strides; moved into the 3x3, each of three widens by less."""
    options = dataclasses.replace(models.options(name), stride_in=stride_in)
    table = layer_table(options.build(1000), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32), train=False)
    last = [row for row in table.rows if len(row.shape) == 4][-1]
    assert [(view.size, view.stride) for view in last.field_of_view] == [(size, 32)] * 2
    assert last.shape == (1, 7, 7, 2048)


def test_googlenet_has_the_shapes_of_table_1():
    shapes = {}
    for row in table_of("googlenet").rows:
        shapes[row.name] = row.shape[1:]
    expected = dict(
        conv1=(112, 112, 64), pool1=(56, 56, 64), conv2=(56, 56, 192), pool2=(28, 28, 192), pool3=(14, 14, 480)
    )
    for name, shape in (expected | dict(pool4=(7, 7, 832), mean=(1024,), fc=(1000,))).items():
        assert shapes.get(name, shapes.get(f"{name}/relu")) == shape, name
    concatenated = {}
    for name, channels in dict(
        zip("3a 3b 4a 4b 4c 4d 4e 5a 5b".split(), (256, 480, 512, 512, 512, 528, 832, 832, 1024))
    ).items():
        branches = ("conv1x1", "conv3x3", "conv5x5", "projection")
        concatenated[name] = sum(shapes[f"inception{name}/{branch}/relu"][-1] for branch in branches)
        assert concatenated[name] == channels


def test_googlenet_gives_two_auxiliary_heads_in_training_alone():
    options = dataclasses.replace(models.options("googlenet").narrow(), auxiliary=True)
    model = options.build(7)
    image = jnp.ones((2, 96, 96, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    apply = lambda v, train: model.apply(v, image, train=train, rngs=dict(dropout=jax.random.key(0)))
    trained = jax.eval_shape(lambda v: apply(v, True), variables)
    assert trained["logits"].shape == (2, 7) and [head.shape for head in trained["auxiliary"]] == [(2, 7)] * 2
    assert jax.eval_shape(lambda v: apply(v, False), variables).shape == (2, 7)
    assert {"auxiliary4a", "auxiliary4d"} <= set(variables["params"])


@pytest.mark.slow  # compiles for half a minute
def test_the_gradient_reaches_googlenets_auxiliary_heads():
    from cnnjax.tasks.classification.loss import cross_entropy

    options = dataclasses.replace(models.options("googlenet").narrow(), auxiliary=True, batch_norm=True)
    model, image = options.build(3), jax.random.normal(jax.random.key(0), (4, 96, 96, 3))
    batch = dict(label=jnp.array([0, 1, 2, 0]), weight=jnp.ones(4))

    @functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))
    def gradient(key):
        variables = model.init(key, image)

        def loss(params):
            outputs, _ = model.apply(variables | dict(params=params), image, train=True, mutable=["batch_stats"])
            return cross_entropy(outputs, batch).mean()

        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(loss)(variables["params"]))

    for path, largest in jax.tree_util.tree_leaves_with_path(gradient(jax.random.key(1))):
        assert largest > 0, path


def test_densenet121_has_the_shapes_of_table_1():
    shapes = {row.name: row.shape[1:] for row in table_of("densenet121").rows}
    assert shapes["conv1"] == (112, 112, 64) and shapes["pool1"] == (56, 56, 64)
    for stage, (side, channels) in enumerate([(28, 128), (14, 256), (7, 512)], 1):
        assert shapes[f"transition{stage}_pool"] == (side, side, channels)
    assert shapes["norm"] == (7, 7, 1024) and shapes["block4_layer16/grow/conv"] == (7, 7, 32)


def test_efficientnet_sees_the_whole_picture_through_its_gates():
    options = models.options("efficientnet_b0")
    model, image = options.build(1000), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    whole = layer_table(model, image, train=False)
    cut = layer_table(model, image, cut_gates=True, train=False)
    last = [n for n, row in enumerate(whole.rows) if len(row.shape) == 4 and row.shape[1] > 1][-1]
    assert [view.size for view in whole.rows[last].field_of_view] == [224, 224]
    # By the formula over its 3- and 5-wide depthwise layers: see STAGES.
    size, stride = 3, 2
    for _, _, blocks, first, kernel in [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)
    ]:  # fmt: skip
        for index in range(blocks):
            size += (kernel - 1) * stride
            stride *= first if index == 0 else 1
    assert [(view.size, view.stride) for view in cut.rows[last].field_of_view] == [(size, stride)] * 2


def test_the_field_of_view_of_a_model_as_a_function():
    model = models.options("vgg11").build(10)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    views = field_of_view(lambda x, v: model.apply(v, x), image, variables)
    assert [(view.low.item(), view.high.item()) for view in views] == [(0, 63)] * 2

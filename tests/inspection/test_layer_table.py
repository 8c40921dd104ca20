"""Layer tables against counts by hand."""

import csv
import io
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax import layers, models
from cnnjax.inspection.layer_table import layer_table
from cnnjax.inspection.rendering import FORMATS, labelled, render


class Small(nn.Module):
    """A grouped convolution with stride, a block of two layers, a transposed convolution, and a dense head."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        x = layers.Conv(8, (3, 5), strides=(2, 1), padding=((1, 1), (2, 2)), feature_group_count=2, name="conv")(x)
        x = (nn.remat(Block) if self.remat else Block)(train, name="block")(x)
        x = layers.ConvTranspose(6, (2, 2), strides=(2, 2), name="up")(x)
        x = layers.GlobalAveragePool(name="mean")(x)
        x = layers.Dropout(0.5, deterministic=not train, name="drop")(x)
        return layers.Dense(10, name="head")(x)


class Block(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        y = layers.BatchNorm()(layers.Conv(8, (3, 3), use_bias=False)(x), use_running_average=not self.train)
        scale = self.param("scale", nn.initializers.ones, (8,))
        return x + layers.ReLU()(y) * scale.reshape(1, 1, 1, 8)


IMAGE = jax.ShapeDtypeStruct((1, 10, 12, 4), jnp.float32)


@pytest.mark.parametrize("remat", [False, True])
def test_rows_by_hand(remat):
    table = layer_table(Small(remat), IMAGE, train=False)
    got = {row.name: (row.type, row.shape, row.learnables, row.parameters, row.macs, row.memory) for row in table.rows}
    half = (1, 5, 12, 8)
    expected = dict(
        conv=("Conv", half, dict(kernel=(3, 5, 2, 8), bias=(8,)), 240 + 8, 5 * 12 * 8 * 3 * 5 * 2, 480 * 4),
        up=("ConvTranspose", (1, 10, 24, 6), dict(kernel=(2, 2, 8, 6), bias=(6,)), 198, 5 * 12 * 8 * 2 * 2 * 6, 5760),
        mean=("GlobalAveragePool", (1, 6), {}, 0, 0, 24),
        drop=("Dropout", (1, 6), {}, 0, 0, 24),
        head=("Dense", (1, 10), dict(kernel=(6, 10), bias=(10,)), 70, 60, 40),
    )
    expected["block/Conv_0"] = ("Conv", half, dict(kernel=(3, 3, 8, 8)), 576, 5 * 12 * 8 * 9 * 8, 1920)
    expected["block/BatchNorm_0"] = ("BatchNorm", half, dict(scale=(8,), bias=(8,)), 16, 0, 1920)
    expected["block/ReLU_0"] = ("ReLU", half, {}, 0, 0, 1920)
    expected["block"] = ("Block", half, dict(scale=(8,)), 8, 0, 1920)
    assert got == expected
    assert table.parameters == 248 + 198 + 70 + 576 + 16 + 8
    assert table.macs == sum(row[4] for row in expected.values())


def test_rows_stand_in_the_order_of_the_calls():
    names = [row.name for row in layer_table(Small(), IMAGE, train=False).rows]
    inner = ["block/Conv_0", "block/BatchNorm_0", "block/ReLU_0", "block"]
    assert names == ["conv", *inner, "up", "mean", "drop", "head"]


def test_a_layer_that_is_called_twice_has_its_weights_once():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = layers.Conv(4, (3, 3), name="shared")
            return conv(layers.ReLU()(conv(x)))

    table = layer_table(Twice(), IMAGE)
    assert [(row.name, row.parameters) for row in table.rows] == [("shared", 148), ("ReLU_0", 0), ("shared", 0)]
    assert table.parameters == 148 and table.macs == 2 * 10 * 12 * 4 * 9 * 4
    assert [row.field_of_view[0].size for row in table.rows] == [3, 3, 5]


def test_unshared_weights_cost_memory_not_work():
    """3x3 from 4 to 8 channels, stride 2: at 5x6 positions the same 288 products, but a kernel and a bias for each."""
    conv, local = (layer_table(kind(8, (3, 3), strides=2), IMAGE) for kind in (layers.Conv, layers.LocallyConnected))
    assert (conv.parameters, local.parameters) == (288 * 1 + 8, 5 * 6 * (288 + 8))
    assert conv.macs == local.macs == 5 * 6 * 288
    (row,), (shared,) = local.rows, conv.rows
    assert row.learnables == dict(kernel=(5, 6, 36, 8), bias=(5, 6, 8)) and row.shape == shared.shape == (1, 5, 6, 8)
    assert [view.size for view in row.field_of_view] == [3, 3]
    assert all(type(view.size) is int for view in row.field_of_view), "as JSON has it"
    for one, other in zip(row.field_of_view, shared.field_of_view):
        assert one[:4] == other[:4]  # size, stride, padding, offset


def test_bfloat16_takes_half_the_memory():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Conv(2, (1, 1), dtype=jnp.bfloat16)(x)

    assert layer_table(Half(), IMAGE).memory == 10 * 12 * 2 * 2


def test_axes_are_labelled():
    assert labelled((1, 55, 55, 96)) == "55(S) x 55(S) x 96(C) x 1(B)"
    assert labelled((1, 9, 7)) == "9(S) x 7(C) x 1(B)" and labelled((2, 10)) == "10(C) x 2(B)"


def test_every_form_tells_the_same():
    table = layer_table(Small(), IMAGE, train=False)
    texts = {how: render(table, ["An issue."], how) for how in FORMATS}
    value = json.loads(texts["json"])
    assert value["issues"] == ["An issue."] and value["totals"]["parameters"] == table.parameters
    assert [row["name"] for row in value["layers"]] == [row.name for row in table.rows]
    assert value["layers"][0]["field_of_view"] == [
        dict(size=3, stride=2, offset=0, padding=1),
        dict(size=5, stride=1, offset=0, padding=2),
    ]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [int(row["MACs"]) for row in rows] == [row.macs for row in table.rows]
    for how in ("text", "markdown"):
        for words in (
            "5(S) x 12(S) x 8(C) x 1(B)",
            "kernel 3x5x2x8, bias 8",
            "3x5",
            "14,400",
            "An issue.",
            "1,116 para",
        ):
            assert words in texts[how], (how, words)


class ByMethods(nn.Module):
    def setup(self):
        self.first, self.second = layers.Conv(3, (3, 3)), layers.Dense(2)

    def __call__(self, x):
        return self.head(self.features(x))

    def features(self, x):
        return self.first(x)

    def head(self, x):
        return self.second(x.mean((1, 2)))


def test_layers_that_are_called_in_other_methods_keep_their_work():
    """Found by a reader: their rows said 0, and so did those of every residual block."""
    table = layer_table(ByMethods(), jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32))
    assert [row.macs for row in table.rows if row.learnables] == [8 * 8 * 9 * 2 * 3, 3 * 2]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50v2", "densenet121", "mobilenetv2", "efficientnet_b0", "convnext_tiny"]
)
def test_every_rows_work_follows_from_its_shapes(name):
    options = models.options(name)
    table = layer_table(options.build(10), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), train=False)
    assert sum(row.macs for row in table.rows) == table.macs
    for row in table.rows:
        kernel = row.learnables.get("kernel")
        if kernel:
            positions = math.prod(row.shape[1:-1])
            assert row.macs == positions * math.prod(kernel), row.name


class Repeated(nn.Module):
    """The same convolution five times, as a loop."""

    @nn.compact
    def __call__(self, x, *, train=False):
        kernel = self.param("kernel", nn.initializers.ones, (3, 3, 2, 2))
        step = lambda x, _: (jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC), None)
        return jax.lax.scan(step, x, length=5)[0]


NHWC = ("NHWC", "HWIO", "NHWC")


def test_a_loop_is_counted_as_often_as_it_runs():
    table = layer_table(Repeated(), jax.ShapeDtypeStruct((1, 6, 7, 2), jnp.float32))
    assert table.macs == 5 * (6 * 7 * 2) * (3 * 3 * 2)

"""What is said of a network before it is trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax import layers
from cnnjax.errors import DoesNotFit
from cnnjax.inspection.findings import dead_parameters, findings, least_size
from cnnjax.inspection.layer_table import layer_table

IMAGE = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)


def found(module, image=IMAGE, **kwargs):
    return findings(layer_table(module, image, **kwargs), module, image, **kwargs)


class Stack(nn.Module):
    """Convolutions, each given by (kernel, stride, padding)."""

    convolutions: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, x):
        for n, (kernel, stride, padding) in enumerate(self.convolutions):
            x = layers.Conv(4, (kernel, kernel), strides=stride, padding=padding, name=f"conv{n}")(x)
        return x


def test_nothing_is_found_where_nothing_is_wrong():
    assert found(Stack(((3, 1, 1), (2, 2, 0)))) == []


def test_dropped_pixels_are_counted_by_hand():
    """5-wide windows at stride 4 over 16: at 0, 4 and 8, up to 12; the last three see nobody."""
    lines = found(Stack(((5, 4, 0),)))
    assert lines == [
        f"conv0 drops the last 3 of 16 input positions along axis {axis}: its windows do not reach them."
        for axis in (1, 2)
    ]


def test_pooling_that_leaves_a_row_out_drops_it():
    class Pools(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.MaxPool((2, 2), name="second")(layers.MaxPool((3, 2), name="first")(x))

    # 16 rows: 5 windows of 3 reach 15, then 2 windows of 2 of these: 12.
    assert found(Pools()) == [
        "first drops the last 1 of 16 input positions along axis 1: its windows do not reach them.",
        "second drops the last 3 of 16 input positions along axis 1: its windows do not reach them.",
    ]


def test_a_cropped_branch_drops_nothing_that_another_sees():
    class Branches(nn.Module):
        both: bool

        @nn.compact
        def __call__(self, x):
            whole = layers.Conv(4, (5, 5), padding="VALID", name="whole")(x)
            middle = layers.CentreCrop((12, 12), name="crop")(x)
            return layers.Conv(4, (1, 1), name="last")(jnp.concatenate([whole, middle], -1) if self.both else middle)

    dropped = lambda both: [line for line in found(Branches(both)) if "drops" in line]
    assert dropped(True) == []
    assert dropped(False) == [
        f"crop drops the {end} 2 of 16 input positions along axis {axis}: its windows do not reach them."
        for axis in (1, 2)
        for end in ("first", "last")
    ]


def test_what_is_dropped_before_padding_stays_dropped():
    """The windows of the second layer reach over the end of the first, not back to what that dropped."""
    lines = found(Stack(((5, 4, 0), (3, 1, 1))))
    assert "conv0 drops the last 3 of 16 input positions along axis 1: its windows do not reach them." in lines


def test_a_field_of_view_wider_than_the_input_is_said_once():
    lines = found(Stack(((7, 1, 3),) * 4))
    assert lines == ["From conv2 on (2 layers) the field of view, there 19x19, exceeds the input of 16x16."]


def test_a_kernel_over_a_single_position():
    lines = found(Stack(((16, 1, 0), (3, 1, 1))))
    assert "conv1 moves a 3x3 kernel over a map of one position: the rest of it sees padding." in lines


class Dead(nn.Module):
    """Two parameters that nothing depends on, one behind stop_gradient, one used in training alone, one always."""

    @nn.compact
    def __call__(self, x, *, train=False):
        self.param("unused", nn.initializers.ones, (3,))
        cut = self.param("cut", nn.initializers.ones, (3,))
        trained = self.param("trained", nn.initializers.ones, (3,))
        used = self.param("used", nn.initializers.ones, (3,))
        y = layers.Dense(3, name="dense")(x) * used.reshape(1, 1, 1, 3) + jax.lax.stop_gradient(cut).reshape(1, 1, 1, 3)
        return y * trained.reshape(1, 1, 1, 3) if train else y


@pytest.mark.parametrize("train, expected", [(False, ["cut", "trained", "unused"]), (True, ["cut", "unused"])])
def test_dead_parameters(train, expected):
    assert dead_parameters(Dead(), IMAGE, train=train) == expected


def test_dead_parameters_within_compiled_and_recomputed_parts():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("unused", nn.initializers.ones, (3,))
            return jax.jit(lambda v, w: v)(layers.Dense(3, name="dense")(x), self.param("w", nn.initializers.ones, ()))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(Block)(name="block")(x)

    assert dead_parameters(Net(), IMAGE) == ["block/unused", "block/w"]


def test_the_least_size_is_that_of_the_windows():
    """Three valid 3-wide layers, the second with stride 2: 3 <- 7 <- 9."""
    shape = (1, 16, 16, 3)
    assert least_size(Stack(((3, 1, 0), (3, 2, 0), (3, 1, 0))), shape) == 9
    assert least_size(Stack(((3, 1, 1),)), shape) == 1


def test_the_layer_that_does_not_fit_is_named():
    with pytest.raises(DoesNotFit, match="^At conv1 14x14 positions arrive, less than its window of 15x15"):
        layer_table(Stack(((3, 1, 0), (15, 1, 0))), IMAGE)

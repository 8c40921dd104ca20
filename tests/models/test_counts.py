"""The published numbers of parameters, at full size, by shapes alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.resnet import Block

# As published, or as the authors' or the usual reference implementation has them, with 1,000 classes; CIFAR's with 10.
PUBLISHED = dict(
    lenet5=61_706,
    alexnet=60_965_224,
    vgg11=132_863_336,
    vgg13=133_047_848,
    vgg16=138_357_544,
    vgg19=143_667_240,
    vgg11_bn=132_868_840,
    vgg13_bn=133_053_736,
    vgg16_bn=138_365_992,
    vgg19_bn=143_678_248,
    googlenet=6_998_552,
    densenet121=7_978_856,
    densenet169=14_149_480,
    densenet201=20_013_928,
    resnet18=11_689_512,
    resnet34=21_797_672,
    resnet50=25_557_032,
    resnet101=44_549_160,
    resnet152=60_192_808,
    wide_resnet50_2=68_883_240,
    wide_resnet101_2=126_886_696,
    resnext50_32x4d=25_028_904,
    resnext101_32x8d=88_791_336,
    resnet20_cifar=269_722,
    resnet56_cifar=853_018,
    wrn28_10=36_479_194,
    mobilenetv2=3_504_872,
    efficientnet_b0=5_288_548,
    efficientnet_b1=7_794_184,
    efficientnet_b2=9_109_994,
    efficientnet_b3=12_233_232,
    efficientnet_b4=19_341_616,
    efficientnet_b5=30_389_784,
    efficientnet_b6=43_040_704,
    efficientnet_b7=66_347_960,
    convnext_tiny=28_589_128,
    convnext_small=50_223_688,
    convnext_base=88_591_464,
)
# Pre-activation moves BatchNorm from what a convolution puts out to what it takes. By hand, of a basic network: a unit has
# scales and offsets for (in, w) channels, not (w, w); none before the first of all; none on the three shortcuts; 512 at the
# end. Scales: 64 + (64 + 128) + (192 + 256) + (384 + 512) + (768 + 1024) + 512 = 3904 for 4800 in ResNet-18.
BASIC = 2 * (3904 - 4800)
# Of a bottleneck (in, w, w), not (w, w, 4w), in the same way: 22,720 for 26,560 in ResNet-50.
BOTTLENECK = 2 * (22_720 - 26_560)
V2 = {
    f"resnet{depth}v2": PUBLISHED[f"resnet{depth}"] + (BASIC if depth < 50 else BOTTLENECK)
    for depth in (18, 34, 50, 101, 152)
}


def shapes(options, classes):
    return jax.eval_shape(
        lambda: options.build(classes).init(jax.random.key(0), jnp.zeros((1, *options.input_shape)))["params"]
    )


def count(options, classes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(options, classes)))


@pytest.mark.parametrize("name, published", (PUBLISHED | V2).items())
def test_published_counts(name, published):
    options = models.options(name)
    assert count(options, 10 if options.input_shape[0] == 32 else 1000) == published


def test_the_stride_of_a_bottleneck_is_where_the_knob_says():
    """Stage 2 of ResNet-50: 56x56 to 28x28 in the 3x3 convolution, or before it as in the first paper."""

    def sides(**changes):
        options = models.options("resnet50")
        for name, value in changes.items():
            setattr(options, name, value)
        model, images = options.build(10), jnp.zeros((1, 224, 224, 3))

        def run():
            variables = model.init(jax.random.key(0), images)
            return model.apply(variables, images, mutable=["intermediates"], capture_intermediates=True)[1]

        block = jax.eval_shape(run)["intermediates"]["stage2_block1"]
        return [block[f"conv{n}"]["__call__"][0].shape[1:] for n in (1, 2, 3)]

    assert sides() == [(56, 56, 128), (28, 28, 128), (28, 28, 512)]
    assert sides(stride_in="1x1") == [(28, 28, 128), (28, 28, 128), (28, 28, 512)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50v2"])
def test_residual_branches_can_begin_as_zeros(name):
    """Then every block whose shape does not change is the identity, up to the ReLU after it."""
    options = models.options(name).narrow()
    options.blocks, options.zero_init_residual = (2,), True
    model, images = options.build(3), jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = model.init(jax.random.key(1), images)
    outputs = model.apply(variables, images, mutable=["intermediates"], capture_intermediates=True)[1]["intermediates"]
    before, after = (outputs[f"stage1_block{n}"]["__call__"][0] for n in (1, 2))
    assert (before == after).all() and (before != 0).any()


def test_shortcuts_without_parameters_take_every_other_pixel_and_pad_the_channels():
    """He et al. 2015, option A: with branches of zeros and a positive input, 16 channels stand amid 32."""
    x = jnp.arange(1.0, 1 + 5 * 5 * 2).reshape(1, 5, 5, 2)
    block = Block(((4, 3, 2, 1), (4, 3, 1, 1)), False, False, "padding", True, 0.0, False, jnp.float32)
    y = block.apply(block.init(jax.random.key(0), x), x)
    expected = jnp.zeros((1, 3, 3, 4)).at[..., 1:3].set(x[:, ::2, ::2])
    assert (y == expected).all()


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet18v2", "resnet50"])
def test_without_shortcuts_a_residual_network_is_its_convolutions_one_after_another(name):
    """He et al. 2015, 4.2: a plain network; with shortcuts without parameters it has as many as the residual one."""
    options = models.options(name).narrow()
    residual = count(options, 3)
    options.shortcut = "none"
    params = shapes(options, 3)
    blocks = [block for block in params if block.startswith("stage")]
    assert not any("shortcut" in layer for block in blocks for layer in params[block])
    assert (count(options, 3) == residual) == (name == "resnet20_cifar")


def test_a_plain_block_by_hand():
    """Of branches that are zeros nothing is left; with a shortcut the input is."""
    x = jnp.arange(1.0, 1 + 4 * 4 * 2).reshape(1, 4, 4, 2)
    for shortcut, expected in (("padding", x), ("none", jnp.zeros_like(x))):
        block = Block(((2, 3, 1, 1), (2, 3, 1, 1)), False, False, shortcut, True, 0.0, False, jnp.float32)
        assert (block.apply(block.init(jax.random.key(0), x), x) == expected).all()


def test_a_plain_network_does_not_begin_with_zeros():
    options = models.options("resnet20_cifar")
    options.shortcut, options.zero_init_residual = "none", True
    with pytest.raises(UserError, match="zero_init_residual needs shortcuts"):
        options.build(10)


def test_groups_that_do_not_divide_the_channels_are_refused():
    options = models.options("resnext50_32x4d")
    options.width = 40
    with pytest.raises(UserError, match="config.model.groups=32 does not divide the 80 channels"):
        options.build(10)


def test_mobilenet_channels_are_multiples_of_eight():
    """Table 2 at three quarters: 12 is rounded up to 16; 18 to 24, as 16 would take away more than a tenth."""
    options = models.options("mobilenetv2")
    options.width = 0.75
    found = shapes(options, 1000)
    assert found["conv1"]["kernel"].shape == (3, 3, 3, 24)
    widths = [found[f"stage{n}_block1"]["project"]["kernel"].shape[-1] for n in range(1, 8)]
    assert widths == [16, 24, 24, 48, 72, 120, 240] and found["fc"]["kernel"].shape == (1280, 1000)


def test_stochastic_depth_rises_linearly_with_depth():
    """EfficientNet-B0 has 16 blocks, the last of stage 6 is the 15th: 0.2 * 14 / 16. ConvNeXt's last: 0.1."""
    rates = {}

    def record(call, args, kwargs, context):
        if type(context.module).__name__ == "StochasticDepth":
            rates["/".join(context.module.path)] = context.module.rate
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        for name in ("efficientnet_b0", "convnext_tiny"):
            shapes(models.options(name), 10)
    assert rates["stage6_block4/StochasticDepth_0"] == pytest.approx(0.2 * 14 / 16)
    assert rates["stage1_block1/StochasticDepth_0"] == 0  # ConvNeXt's; EfficientNet's first block has no shortcut
    assert rates["stage4_block3/StochasticDepth_0"] == pytest.approx(0.1)

"""Whole pictures in tiles: the result is that of the whole at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import mirror
from cnnjax.data.source import IGNORED, Scenes
from cnnjax.errors import UserError
from cnnjax.tasks.segmentation import tiling
from cnnjax.tasks.segmentation.tiling import Reach, Tiling

RANDOM = np.random.default_rng(0)
KERNEL = jnp.asarray(RANDOM.normal(size=(3, 3, 2, 2)), jnp.float32)
UP = jnp.asarray(RANDOM.normal(size=(2, 2, 2, 2)), jnp.float32)


def convolution(x, padding):
    return jax.lax.conv_general_dilated(x, KERNEL, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def network(x, padding="SAME"):
    """A U-Net of one level: 3x3, pooled, 3x3, up again, beside what was not pooled."""
    high = jax.nn.relu(convolution(x, padding))
    low = jax.lax.reduce_window(high, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    low = jax.nn.relu(convolution(low, padding))
    up = jax.lax.conv_transpose(low, UP, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    cut = (high.shape[1] - up.shape[1]) // 2
    return convolution(up + high[:, cut : cut + up.shape[1], cut : cut + up.shape[2]], padding)


def valid(x):
    return network(x, "VALID")


def scenes(*pictures):
    masks = [(picture[..., 0] > 0).astype(np.uint8) for picture in pictures]
    sizes = np.array([mask.shape for mask in masks])
    return Scenes(sizes, ("",) * len(masks), lambda i: dict(image=pictures[i], mask=masks[i], instances=masks[i]))


def reach(function, side=32):
    return tiling.reach_of(function, 2, 2, "network", side)


def test_reach():
    same, small = reach(network), reach(valid)
    assert same.shrinks == 0 and small.shrinks == 2 + 2 * 2 + 2
    assert small.margin == 0  # without padding nothing tells where the input ends
    probe = np.zeros((1, 64, 64, 2), np.float32)
    base = network(probe + 0.1)
    seen = []
    for position in (31, 32, 33, 34):
        bumped = jax.jit(jax.jacrev(lambda x: network(x)[0, position, 32].sum()))(
            probe + RANDOM.normal(size=probe.shape)
        )
        rows = np.flatnonzero(np.abs(bumped).sum((0, 2, 3)))
        seen += [position - rows.min(), rows.max() - position]
    assert base.shape == probe.shape and max(seen) <= same.margin <= max(seen) + 2  # a multiple of the stride


@pytest.mark.parametrize("function, blend", [(network, False), (network, True), (valid, False), (valid, True)])
@pytest.mark.parametrize("height, width", [(61, 47), (7, 90), (1, 1), (32, 32)])
def test_tiles_make_the_whole(function, blend, height, width):
    image = RANDOM.normal(size=(height, width, 2)).astype(np.float32)
    r = reach(function)
    t = tiling.tiling_for(r, max(height, width), 40, first=32)
    assert t.tile <= 40 and t.kept % 2 == 0
    # The whole at once: mirrored by as much as a tile's border, and on to a size that the network takes.
    side = lambda n: t.before + n + t.before + (n % 2)
    whole = mirror.cut(image, -t.before, -t.before, side(height), side(width))
    whole = np.asarray(function(whole[None]))[0]
    shift = t.before - r.shrinks // 2
    whole = whole[shift : shift + height, shift : shift + width]
    predict = jax.jit(function)
    parts = list(tiling.stitched(predict, image, t, blend, stride=2))
    assert [top for top, _ in parts] == list(np.cumsum([0, *(len(rows) for _, rows in parts)])[:-1])
    np.testing.assert_allclose(np.concatenate([rows for _, rows in parts]), whole, rtol=1e-4, atol=1e-4)


def test_a_margin_too_small_shows():
    image = RANDOM.normal(size=(60, 60, 2)).astype(np.float32)
    r = reach(network)
    results = []
    for margin in (-1, 0):
        t = tiling.tiling_for(r, 60, 24, margin, first=32)
        results.append(np.concatenate([rows for _, rows in tiling.stitched(network, image, t)]))
    assert np.abs(results[0] - results[1]).max() > 0.1


def test_every_pixel_counts_once():
    pictures = [RANDOM.normal(size=(h, w, 2)).astype(np.float32) for h, w in [(50, 33), (8, 8), (1, 70)]]
    given = scenes(*pictures)
    t = tiling.tiling_for(reach(network), 70, 32, first=32)
    split = tiling.tiles(given, t)
    batch = split.read(np.arange(split.size))
    counted = [(batch["mask"][batch["tile"][:, 0] == i] != IGNORED).sum() for i in range(3)]
    assert counted == [50 * 33, 64, 70]
    for row in range(split.size):
        picture, height, width, top, left, before, kept = batch["tile"][row]
        assert (height, width) == pictures[picture].shape[:2]
        rows, columns = min(kept, height - top), min(kept, width - left)
        mine = pictures[picture][top : top + rows, left : left + columns]
        inside = slice(before, before + rows), slice(before, before + columns)
        np.testing.assert_array_equal(batch["image"][row][inside], mine)
        np.testing.assert_array_equal(batch["mask"][row][inside], mine[..., 0] > 0)


def test_tiles_can_be_read_in_any_order_and_pickled():
    import pickle

    pictures = [np.full((20, 20, 2), i, np.float32) for i in range(3)]
    reader = scenes(*pictures)
    split = tiling.tiles(reader._replace(read=Plain()), Tiling(16, 8, 4, 16))
    copy = pickle.loads(pickle.dumps(split))
    order = RANDOM.permutation(split.size)
    images = copy.read(order)
    np.testing.assert_array_equal(images["image"][:, 0, 0, 0], images["tile"][:, 0])


class Plain:
    def __call__(self, i):
        return dict(image=np.full((20, 20, 2), i, np.float32), mask=np.zeros((20, 20), np.uint8))


@pytest.mark.parametrize(
    "reach, largest, most, first, tile, kept",
    [
        (Reach(16, 107, 0), 256, 512, 0, 480, 256),  # 112 on each side: the multiple of 16 that holds 107
        (Reach(16, 107, 0), 5000, 512, 0, 512, 288),
        (Reach(16, 0, 184), 388, 572, 12, 572, 384),  # the U-Net paper's tile: 388, of which 24 x 16 are kept
        (Reach(16, 0, 184), 10, 572, 12, 204, 16),
        (Reach(2, 0, 0), 9, 64, 0, 10, 10),
    ],
)
def test_tilings_by_hand(reach, largest, most, first, tile, kept):
    t = tiling.tiling_for(reach, largest, most, first=first)
    assert (t.tile, t.kept) == (tile, kept)


def test_what_cannot_be_tiled_is_refused():
    with pytest.raises(UserError, match="tile=96 is too small: .* 112 pixels .* at least 240"):
        tiling.tiling_for(Reach(16, 107, 0), 256, 96)
    with pytest.raises(UserError, match="tile=256 is too small: .* 5008 pixels .* at least 10024"):
        tiling.tiling_for(Reach(8, 40, 0), 300, 256, margin=5000 + 1, first=32)
    assert tiling.tiling_for(Reach(8, 40, 0), 300, 11_000, margin=5000, first=32).tile == 10_304
    everywhere = lambda x: x - x.mean((1, 2), keepdims=True)
    with pytest.raises(UserError, match="group_unet sees the whole picture"):
        tiling.reach_of(everywhere, 2, 2, "group_unet", 32)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        pytest.param(dict(padding="valid"), marks=pytest.mark.slow),
        pytest.param(dict(up="interpolate"), marks=pytest.mark.slow),
        dict(padding="valid", up="interpolate", down="stride"),
    ],
)
def test_a_unet_in_tiles_is_the_unet_at_once(options):
    import dataclasses

    from cnnjax import models

    chosen = dataclasses.replace(models.options("unet"), base=2, depth=2, **options)
    model = chosen.build(2)
    first = 44 if chosen.padding == "valid" else 32
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, first, first, 1))))()
    function = jax.jit(lambda x: model.apply(variables, x))
    r = tiling.reach_of(function, 1, chosen.stride, "unet", first)
    t = tiling.tiling_for(r, 120, 96, first=first)
    image = RANDOM.normal(size=(120, 70, 1)).astype(np.float32)
    sides = [next(n for n in range(2 * t.before + size, 999) if chosen.output_side(n)) for size in image.shape[:2]]
    whole = np.asarray(function(mirror.cut(image, -t.before, -t.before, *sides)[None]))[0]
    shift = t.before - r.shrinks // 2
    whole = whole[shift : shift + 120, shift : shift + 70]
    found = np.concatenate([rows for _, rows in tiling.stitched(function, image, t)])
    assert t.kept < 70 and np.abs(whole).max() > 0.01
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)

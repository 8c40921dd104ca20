"""Augmentation of a picture and its mask together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import CubicSpline

from cnnjax.errors import UserError
from cnnjax.inputs.images import augmentation
from cnnjax.inputs.images.augmentation import colour, geometry, warp
from cnnjax.inputs.images.options import Augmentation

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(7)
SIDE, BATCH = 24, 6

GEOMETRIES = dict(
    flip=dict(flip=True),
    flip_vertical=dict(flip_vertical=True),
    quarter_turns=dict(quarter_turns=True),
    affine=dict(rotation=40.0, scale=0.2, shear=10.0, shift=0.2),
    elastic=dict(elastic=3.0),
    everything=dict(
        flip=True, flip_vertical=True, quarter_turns=True, rotation=30.0, scale=0.3, elastic=2.0, elastic_grid=4
    ),
)


def batch():
    """The mask tells each pixel's row; picture and weight are made of the same numbers."""
    rows = np.broadcast_to(np.arange(SIDE, dtype=np.uint8)[None, :, None], (BATCH, SIDE, SIDE))
    columns = np.swapaxes(rows, 1, 2)
    image = np.stack([10 * rows, 10 * columns], -1)
    weight = columns.astype(np.float32)
    return dict(
        image=image,
        mask=rows,
        pixel_weight=weight,
        weight=np.ones(BATCH, np.float32),
        position=np.arange(BATCH, dtype=np.int32),
    )


def augmented(given=None, key=KEY, **options):
    return jax.tree.map(np.asarray, augmentation.augment(key, given or batch(), Augmentation(**options)))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_picture_mask_and_weight_stay_together(name):
    found = augmented(**GEOMETRIES[name])
    rows, columns = 25.5 * found["image"][..., 0], 25.5 * found["image"][..., 1]
    assert found["mask"].dtype == np.uint8 and found["pixel_weight"].dtype == np.float32
    # Rows lie a pixel apart and the mask takes the nearest: half a pixel at most; the picture mirrors as smoothly.
    assert (
        np.abs(rows - found["mask"]).max() < 0.5 + 1e-3 and np.abs(columns - found["pixel_weight"]).max() < 0.5 + 1e-3
    )
    assert any((found[name] != batch()[name]).any() for name in ("mask", "pixel_weight"))
    if name in ("flip", "flip_vertical", "quarter_turns"):
        np.testing.assert_allclose(rows, found["mask"], atol=1e-4)


def test_nothing_on_changes_nothing():
    found, given = augmented(), batch()
    np.testing.assert_allclose(found["image"], given["image"] / 255, atol=1e-7)
    for name in ("mask", "pixel_weight", "weight"):
        np.testing.assert_array_equal(found[name], given[name])


def test_a_batch_may_be_split():
    whole, given = augmented(**GEOMETRIES["everything"]), batch()
    half = augmented({name: array[3:] for name, array in given.items()}, **GEOMETRIES["everything"])
    for name in ("image", "mask"):
        np.testing.assert_allclose(half[name], whole[name][3:], atol=1e-6)


def test_every_operation_has_a_key_of_its_own():
    turned, more = augmented(rotation=40.0), augmented(rotation=40.0, noise=1e-9, brightness=1e-9)
    np.testing.assert_array_equal(turned["mask"], more["mask"])
    flipped = augmented(flip=True)["mask"]
    both = augmented(flip=True, flip_vertical=True)["mask"]
    for a, b in zip(flipped, both):
        assert (a == b).all() or (a[::-1] == b).all()


@pytest.mark.parametrize("shape", [(9, 13), (1, 6), (2, 2), (1, 1)])
def test_sampling_as_scipy(shape):
    image = RANDOM.normal(size=(*shape, 2)).astype(np.float32)
    labels = RANDOM.integers(0, 200, shape).astype(np.uint8)
    rows, columns = (RANDOM.uniform(-25, 25, (7, 5)).astype(np.float32) for _ in range(2))
    found = warp.sample(jnp.asarray(image), rows, columns, mirrored=True)
    for channel in range(2):
        wanted = ndimage.map_coordinates(image[..., channel], [rows, columns], order=1, mode="mirror")
        np.testing.assert_allclose(found[..., channel], wanted, atol=1e-4)
    wanted = ndimage.map_coordinates(labels, [rows, columns], order=0, mode="mirror")
    np.testing.assert_array_equal(warp.nearest(jnp.asarray(labels), rows, columns), wanted)
    zeros = warp.sample(jnp.asarray(image), rows, columns, mirrored=False)
    wanted = ndimage.map_coordinates(image[..., 0], [rows, columns], order=1, mode="grid-constant")
    np.testing.assert_allclose(zeros[..., 0], wanted, atol=1e-4)


def test_mirrors_by_hand():
    places = jnp.array([-3.0, -1.0, -0.25, 0.0, 2.5, 3.0, 3.5, 5.0, 6.0, 7.0])
    np.testing.assert_allclose(warp.mirror(places, 4), [3, 1, 0.25, 0, 2.5, 3, 2.5, 1, 0, 1])
    np.testing.assert_array_equal(warp.mirror(places, 1), np.zeros(10))


def test_an_affine_field_is_that_of_affine():
    image = jnp.asarray(RANDOM.uniform(size=(10, 14, 3)), jnp.float32)
    matrix = geometry.affine_matrix(0.3, 1.1, 0.1, 1.0, -2.0)
    field = warp.coordinates(image.shape, matrix)
    np.testing.assert_allclose(warp.sample(image, *field, mirrored=False), geometry.affine(image, matrix), atol=1e-5)


def test_displacements_go_through_the_drawn_ones():
    drawn = 5.0 * jax.random.normal(KEY, (2, 3, 3))
    down, right = warp.random_displacements(KEY, (21, 31, 1), 5.0, 3)
    for field, points in ((down, drawn[0]), (right, drawn[1])):
        np.testing.assert_allclose(field[::10, ::15], points, atol=1e-4)
        rows = CubicSpline(np.arange(3), np.asarray(points), bc_type="natural")(np.linspace(0, 2, 21))
        wanted = CubicSpline(np.arange(3), rows, axis=1, bc_type="natural")(np.linspace(0, 2, 31))
        np.testing.assert_allclose(field, wanted, atol=1e-4)
    many = jax.vmap(lambda key: warp.random_displacements(key, (5, 5, 1), 4.0, 3)[0][0, 0])(jax.random.split(KEY, 4000))
    assert abs(float(many.std()) - 4) < 0.2 and abs(float(many.mean())) < 0.3


def test_quarter_turns_are_all_there_and_exact():
    given = batch()
    picture = given["image"][0]
    turns = [np.rot90(picture, n) / np.float32(255) for n in range(4)]
    seen = set()
    for n in range(8):
        for image in augmented(key=jax.random.key(n), quarter_turns=True)["image"]:
            matches = [k for k, turn in enumerate(turns) if np.allclose(turn, image, atol=1e-6)]
            assert len(matches) == 1
            seen.add(matches[0])
    assert seen == {0, 1, 2, 3}


def test_noise():
    image = jnp.full((50, 50, 3), 0.5)
    noisy = np.asarray(colour.noise(KEY, image, 0.1))
    assert abs(noisy.std() - 0.1) < 0.005 and abs(noisy.mean() - 0.5) < 0.005
    assert np.asarray(colour.noise(KEY, image, 5.0)).min() == 0 and np.asarray(colour.noise(KEY, image, 5.0)).max() == 1
    found = augmented(noise=0.1)
    np.testing.assert_array_equal(found["mask"], batch()["mask"])


@pytest.mark.parametrize(
    "options", [dict(flip_vertical=True), dict(quarter_turns=True), dict(elastic=2.0), dict(noise=0.1)]
)
def test_one_class_a_picture_too(options):
    given = {name: array for name, array in batch().items() if name in ("image", "weight", "position")}
    given["label"] = np.zeros(BATCH, np.int32)
    found = augmented(given, **options)
    assert found["image"].shape == given["image"].shape and (found["image"] != given["image"] / 255).any()
    if "elastic" in options:  # zeros come in from outside
        assert (found["image"][..., 0] == 0).sum() > 0


def test_a_picture_alone_is_changed_as_before():
    given = {name: array for name, array in batch().items() if name in ("image", "weight", "position")}
    given["label"] = np.zeros(BATCH, np.int32)
    found = augmented(given, rotation=30.0, flip=True)["image"]
    for n in range(BATCH):
        keys = jax.random.split(jax.random.fold_in(KEY, n), 13)
        image = geometry.random_flip(keys[3], jnp.asarray(given["image"][n]) / jnp.float32(255))
        wanted = geometry.random_affine(keys[4], image, 30.0, 0.0, 0.0, 0.0)
        np.testing.assert_allclose(found[n], wanted, atol=1e-6)


def test_turns_need_squares():
    with pytest.raises(UserError, match="quarter_turns needs square pictures, not 8 x 6"):
        augmentation.output_size(8, 6, Augmentation(quarter_turns=True))

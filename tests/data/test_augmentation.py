"""Augmentation against values worked out by hand or by NumPy, SciPy, Pillow, colorsys; randomness against its law."""

import colorsys
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from cnnjax.errors import UserError
from cnnjax.inputs.images.augmentation import augment, colour, evaluation_view, geometry, mixing, output_size, to_unit
from cnnjax.inputs.images.options import Augmentation
from cnnjax.inputs.images.statistics import Statistics

COMPONENTS = np.array([[0.3, 0.1, 0.02], [0.25, -0.05, -0.04], [0.2, -0.1, 0.03]], np.float32)
STATISTICS = Statistics(np.full(3, 0.5), np.full(3, 0.25), COMPONENTS)
EVERYTHING = dict(
    random_resized_crop=10, random_crop=8, pad_and_crop=2, flip=True, rotation=15.0, scale=0.1, shear=5.0, shift=0.1,
    brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, pca_noise=0.1, cutout=3, mixup=0.4, cutmix=1.0,
)  # fmt: skip

# Most of the time here goes into compiling each thing once, so it is not compiled to be fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def numbered(height, width):
    """A picture [H, W, 1] whose pixels say where they are: y * W + x."""
    return np.arange(height * width, dtype=np.float32).reshape(height, width, 1)


def batch_of(image, start=0):
    place = np.arange(start, start + len(image), dtype=np.int32)
    return {"image": image, "label": place % 10, "position": place}


def uniform(numbers, low, high):
    return stats.kstest(numbers, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def equally_often(numbers, kinds):
    counts = np.bincount(np.asarray(numbers), minlength=kinds)
    return len(counts) == kinds and stats.chisquare(counts).pvalue > 1e-3


def many(function, number, seed=0):
    """The function's results for many keys."""
    return jax.tree.map(np.asarray, jit(jax.vmap(function))(keys(number, seed)))


# The range of values.


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_to_unit_divides_whole_numbers_by_their_largest(dtype, top):
    result = to_unit(np.array([0, 51, top], dtype))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, [0, 51 / top, 1], rtol=1e-6)


def test_to_unit_leaves_floats_and_refuses_other_types():
    image = np.array([-0.5, 0.1, 3], np.float32)
    np.testing.assert_array_equal(to_unit(image), image)
    with pytest.raises(TypeError, match="int32"):
        to_unit(np.zeros(3, np.int32))


# Geometry.


def test_crop_copies_the_pixels_of_its_place():
    image = pictures(7, 9, 3)
    np.testing.assert_array_equal(geometry.crop(image, 2, 5, 4), image[2:6, 5:9])
    np.testing.assert_array_equal(geometry.centre_crop(image, 4), image[1:5, 2:6])


@pytest.mark.parametrize("size, factor, positions", [(224, 2048, 32), (227, 1800, 30)])
def test_random_crop_and_flip_draw_just_the_views_that_are_counted(size, factor, positions):
    assert geometry.crop_views(256, 256, size, flip=True) == factor
    image = jnp.asarray(numbered(256, 256))

    def view(key):
        crop_key, flip_key = jax.random.split(key)
        result = geometry.random_flip(flip_key, geometry.random_crop(crop_key, image, size))
        return result[0, 0, 0], result[0, -1, 0]

    first, last = jit(lambda keys: jax.lax.map(view, keys))(keys(20 * factor))
    corner, flipped = np.minimum(first, last).astype(int), np.asarray(first > last)
    assert np.all(abs(np.asarray(first - last)) == size - 1)
    top, left = np.divmod(corner, 256)
    assert {*zip(top, left, flipped)} == {(t, l, f) for t in range(positions) for l in range(positions) for f in (0, 1)}
    assert equally_often(top, positions) and equally_often(left, positions)


@pytest.mark.parametrize("length, size, positions", [(5, 5, 1), (6, 5, 2), (7, 5, 2), (8, 5, 4), (9, 5, 4), (10, 5, 6)])
def test_crop_positions(length, size, positions):
    assert geometry.crop_positions(length, size) == positions
    assert geometry.crop_views(length, 5, size, flip=False) == positions


def test_ten_crops_are_corners_middle_and_their_mirror_images():
    image = numbered(8, 11)
    crops = np.asarray(geometry.ten_crop(image, 5))
    assert crops.shape == (10, 5, 5, image.shape[-1])
    for crop, (top, left) in zip(crops, [(0, 0), (0, 6), (3, 0), (3, 6), (1, 3)]):
        np.testing.assert_array_equal(crop, image[top : top + 5, left : left + 5])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_random_crop_of_an_oblong_picture_draws_each_offset_by_itself():
    corner = many(lambda key: geometry.random_crop(key, numbered(8, 11), 5)[0, 0, 0], 4000).astype(int)
    top, left = np.divmod(corner, 11)
    assert equally_often(top * 6 + left, 4 * 6)


def test_pad_and_crop_moves_by_whole_pixels_and_fills_with_zeros():
    image = numbered(4, 5) + 1
    result = many(lambda key: geometry.pad_and_crop(key, image, 2), 4000)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    shifts = {padded[t : t + 4, l : l + 5].tobytes(): t * 5 + l for t in range(5) for l in range(5)}
    assert equally_often([shifts[view.tobytes()] for view in result], 25)


def test_flip_reflects_half_of_the_pictures():
    image = pictures(3, 4, 2)
    np.testing.assert_array_equal(geometry.flip(image), image[:, ::-1])
    result = many(lambda key: geometry.random_flip(key, image), 4000)
    flipped = (result == geometry.flip(image)).all(axis=(1, 2, 3))
    assert np.all(flipped | (result == image).all(axis=(1, 2, 3)))
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_affine_identity_and_whole_moves_are_exact():
    image = pictures(5, 6, 3)
    np.testing.assert_array_equal(geometry.affine(image, geometry.affine_matrix(0.0, 1.0, 0.0, 0.0, 0.0)), image)
    moved = geometry.affine(image, geometry.affine_matrix(0.0, 1.0, 0.0, 1.0, -2.0))
    np.testing.assert_array_equal(moved[1:, :-2], image[:-1, 2:])
    assert not moved[0].any() and not moved[:, -2:].any()


def test_affine_half_a_pixel_blends_two_pixels_and_the_zeros_outside():
    image = np.array([[[2.0], [4.0]]], np.float32)
    moved = geometry.affine(image, geometry.affine_matrix(0.0, 1.0, 0.0, 0.0, 0.5))
    np.testing.assert_array_equal(moved[0, :, 0], [1, 3])


def test_affine_turns_counter_clockwise_enlarges_and_shears():
    image = pictures(7, 7, 1)
    turned = geometry.affine(image, geometry.affine_matrix(math.pi / 2, 1.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-5)
    enlarged = geometry.affine(image, geometry.affine_matrix(0.0, 2.0, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(enlarged[1::2, 1::2], image[2:5, 2:5])
    sheared = geometry.affine(image, geometry.affine_matrix(0.0, 1.0, math.pi / 4, 0.0, 0.0))
    for y in range(7):  # the row below the centre moves one pixel to the right, the next one two, ...
        expected = np.zeros(7, np.float32)
        for x in range(7):
            if 0 <= x - (y - 3) < 7:
                expected[x] = image[y, x - (y - 3), 0]
        np.testing.assert_allclose(sheared[y, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 12, 3), (8, 5, 1)])
def test_affine_is_scipys(shape):
    image, (angle, scale, shear, down, right) = pictures(*shape), (0.7, 1.3, 0.4, 1.25, -2.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ [[1, 0], [np.tan(shear), 1]] * scale)
    centre = (np.array(shape[:2]) - 1) / 2
    offset = centre - inverse @ (centre + [down, right])
    expected = [
        ndimage.affine_transform(picture, inverse, offset, order=1, mode="grid-constant")
        for picture in np.moveaxis(image, -1, 0)
    ]
    result = geometry.affine(image, geometry.affine_matrix(angle, scale, shear, down, right))
    np.testing.assert_allclose(result, np.stack(expected, axis=-1), atol=1e-5)


def test_random_affine_draws_what_its_knobs_say(monkeypatch):
    monkeypatch.setattr(geometry, "affine", lambda image, matrix: matrix)
    image = np.zeros((10, 20, 1), np.float32)
    inverse = many(lambda key: geometry.random_affine(key, image, 30.0, 0.2, 20.0, 0.1), 2000).astype(np.float64)
    forward = np.linalg.inv(inverse[:, :, :2])  # turn @ [[1, 0], [tan(shear), 1]] * scale
    angle, scale = np.arctan2(-forward[:, 0, 1], forward[:, 1, 1]), np.hypot(forward[:, 0, 1], forward[:, 1, 1])
    # Turned back, it has the rows (scale, 0) and (scale * tan(shear), scale).
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    unturned = back @ forward
    np.testing.assert_allclose(unturned[:, 0, 1], 0, atol=1e-6)
    np.testing.assert_allclose(unturned[:, 0, 0], scale, rtol=1e-5)
    shear = np.arctan(unturned[:, 1, 0] / scale)
    down, right = -(forward @ inverse[:, :, 2:])[:, :, 0].T
    drawn = [np.degrees(angle) / 30, (scale - 1) / 0.2, np.degrees(shear) / 20, down / 1, right / 2]
    assert all(uniform(amount, -1, 1) for amount in drawn)
    assert np.all(abs(np.corrcoef(drawn) - np.eye(5)) < 4 / math.sqrt(2000))


@pytest.mark.parametrize("box, size", [((0, 0, 12, 15), 6), ((3, 2, 5, 9), 8), ((11, 14, 1, 1), 3), ((2, 3, 4, 4), 4)])
def test_resize_box_is_pillows(box, size):
    image = pictures(12, 15, 1)
    top, left, height, width = box
    cut = Image.fromarray(image[top : top + height, left : left + width, 0])
    expected = cut.resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(geometry.resize_box(image, *box, size)[:, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("height, width", [(200, 200), (200, 260)])
def test_random_box_has_uniform_area_and_an_aspect_in_range(height, width):
    draw = lambda key: geometry.random_box(key, height, width, 0.08, 4 / 3)
    top, left, h, w = many(draw, 4000)
    assert np.all((top >= 0) & (left >= 0) & (top + h <= height) & (left + w <= width) & (h > 0) & (w > 0))
    assert uniform(h * w / (height * width), 0.08, 1)
    ratio = w / h
    assert ratio.min() > 3 / 4 * 0.98 and ratio.max() < 4 / 3 * 1.02  # whole pixels: a side is off by up to a half
    small = h * w < 0.5 * height * width  # every aspect fits these
    assert uniform(np.log(ratio[small]), math.log(3 / 4), math.log(4 / 3))
    room = (height - h > 50) & small
    assert uniform((top + 0.5)[room] / (height - h + 1)[room], 0, 1)


def test_random_box_of_a_long_picture_keeps_its_aspect():
    top, left, h, w = many(lambda key: geometry.random_box(key, 50, 400, 0.5, 4 / 3), 500)
    assert np.all(h == 50) and np.all(w == 67)
    assert left.min() < 10 and (left + w).max() > 390 and not top.any()


def test_random_resized_crop_of_the_whole_picture_is_the_picture():
    image = pictures(6, 6, 3)
    result = jit(lambda key: geometry.random_resized_crop(key, image, 6, 1.0, 1.0))(jax.random.key(0))
    np.testing.assert_allclose(result, image, atol=1e-6)


# Colour.


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])


def test_brightness_multiplies_and_cuts_off():
    image = np.array([[[0.0, 0.2, 0.8]]], np.float32)
    np.testing.assert_allclose(colour.brightness(image, 1.5)[0, 0], [0, 0.3, 1], rtol=1e-6)


def test_contrast_stretches_about_the_mean_grey():
    image = np.array([[[0.2], [0.6]]], np.float32)
    np.testing.assert_allclose(colour.contrast(image, 0.5)[0, :, 0], [0.3, 0.5], rtol=1e-6)
    image = 0.3 + 0.4 * pictures(4, 5, 3)
    mean = luma(image).mean()
    np.testing.assert_allclose(colour.contrast(image, 1.3), mean + 1.3 * (image - mean), rtol=1e-5)
    np.testing.assert_allclose(colour.contrast(image, 0.0), np.full((4, 5, 3), mean), rtol=1e-5)


def test_saturation_blends_with_the_grey_picture():
    image = pictures(4, 5, 3)
    grey = luma(image)[:, :, None]
    for factor in (0.0, 0.6, 1.0, 1.4):
        expected = np.clip(grey + factor * (image - grey), 0, 1)
        np.testing.assert_allclose(colour.saturation(image, factor), expected, atol=1e-6)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 1 / 6, 1 / 3, 0.45])
def test_hue_is_colorsys(turn):
    image = pictures(8, 8, 3)
    image[0, :3] = [[0.5, 0.5, 0.5], [0, 0, 0], [0.7, 0.7, 0.2]]  # no hue, black, two channels alike
    expected = np.empty_like(image)
    for place in np.ndindex(8, 8):
        h, s, v = colorsys.rgb_to_hsv(*image[place].tolist())
        expected[place] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
    np.testing.assert_allclose(colour.hue(image, turn), expected, atol=1e-5)


def test_saturation_and_hue_leave_a_grey_picture_as_it_is():
    image = pictures(4, 4, 1)
    np.testing.assert_array_equal(colour.saturation(image, 0.3), image)
    np.testing.assert_array_equal(colour.hue(image, 0.3), image)


def test_random_amount_is_uniform():
    assert uniform(many(lambda key: colour.random_amount(key, 0.4), 4000), -0.4, 0.4)


def test_pca_noise_adds_one_colour_with_the_covariance_of_the_pixels():
    image = pictures(3, 4, 3)
    noise = many(lambda key: colour.pca_noise(key, image, COMPONENTS, 0.1) - image, 20_000)
    np.testing.assert_allclose(noise, np.broadcast_to(noise[:, :1, :1], noise.shape), atol=1e-6)
    added = noise[:, 0, 0]
    assert np.all(abs(added.mean(axis=0)) < 4 * added.std(axis=0) / math.sqrt(len(added)))
    covariance = 0.01 * COMPONENTS @ COMPONENTS.T
    np.testing.assert_allclose(np.cov(added.T), covariance, atol=0.05 * covariance.max())
    alpha = np.linalg.solve(COMPONENTS.astype(np.float64), added.T) / 0.1
    assert all(stats.kstest(a, "norm").pvalue > 1e-3 for a in alpha)


# Mixing.


@pytest.mark.parametrize("size, area", [(3, 9), (4, 16)])
def test_cutout_is_a_square_about_a_uniform_pixel_clipped_at_the_border(size, area):
    image = np.ones((9, 11, 2), np.float32)
    result = many(lambda key: mixing.cutout(key, image, size), 4000)
    assert np.all((result[..., 0] == result[..., 1]) & ((result == 0) | (result == 1))[..., 0])
    hole, before, after = result[..., 0] == 0, size // 2, size - size // 2
    expected = {}
    for y, x in np.ndindex(9, 11):
        mask = np.zeros((9, 11), bool)
        mask[max(0, y - before) : y + after, max(0, x - before) : x + after] = True
        expected[mask.tobytes()] = y * 11 + x
    assert equally_often([expected[h.tobytes()] for h in hole], 99)
    assert hole.sum(axis=(1, 2)).max() == area and hole.sum(axis=(1, 2)).min() == before**2 or size % 2


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_blends_by_a_share_from_the_beta_distribution(alpha):
    own, other = np.full((1, 1, 1), 2, np.float32), np.full((1, 1, 1), 6, np.float32)
    result, share = many(lambda key: mixing.mixup(key, own, other, alpha), 4000)
    np.testing.assert_allclose(result[:, 0, 0, 0], 2 * share + 6 * (1 - share), rtol=1e-5)
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("height, width", [(13, 13), (8, 20)])
def test_cutmix_share_is_the_area_that_is_left(height, width):
    own, other = np.zeros((height, width, 2), np.float32), np.ones((height, width, 2), np.float32)
    result, share = many(lambda key: mixing.cutmix(key, own, other, 1.0), 4000)
    kept = (result[..., 0] == 0).sum(axis=(1, 2))
    np.testing.assert_allclose(share * (height * width), kept, atol=1e-4)
    for pasted in result[:200, :, :, 0] == 1:  # one box, clipped
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            assert np.count_nonzero(np.diff(line.astype(int))) <= 2
    # The law of the share, from the paper's own words in NumPy.
    rng = np.random.default_rng(0)
    side = np.sqrt(1 - rng.beta(1, 1, 4000))
    spans = []
    for length in (height, width):
        cut = (length * side).astype(int)
        start = rng.integers(0, length, 4000) - cut // 2
        spans.append(np.clip(start + cut, 0, length) - np.clip(start, 0, length))
    assert stats.ks_2samp(kept, height * width - spans[0] * spans[1]).pvalue > 1e-3


def test_partners_are_a_permutation_that_goes_by_position():
    position = jnp.arange(16, dtype=jnp.int32)
    partners = jit(mixing.partners)
    row = np.asarray(partners(jax.random.key(1), position))
    assert sorted(row) == list(range(16)) and not np.array_equal(row, np.arange(16))
    shuffled = np.random.default_rng(0).permutation(16).astype(np.int32)
    np.testing.assert_array_equal(shuffled[partners(jax.random.key(1), shuffled)], row[shuffled])
    first = many(lambda key: mixing.partners(key, position[:8])[0], 4000)
    assert equally_often(first, 8)


# The pipeline.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_with_nothing_on_a_batch_is_only_brought_to_unit(dtype, channels):
    image = (200 * pictures(4, 6, 7, channels)).astype(dtype)
    batch = {**batch_of(image), "weight": np.ones(4, np.float32)}
    result = augment(jax.random.key(0), batch, Augmentation())
    np.testing.assert_array_equal(result["image"], to_unit(image))
    assert set(result) == set(batch)


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_at_once_under_jit(channels):
    options = Augmentation(**EVERYTHING)
    statistics = STATISTICS if channels == 3 else Statistics(*(np.full(s, 0.3) for s in [1, 1, (1, 1)]))
    run = jit(lambda key, batch: augment(key, batch, options, statistics))
    batch = batch_of((255 * pictures(16, 14, 12, channels)).astype(np.uint8))
    result = run(jax.random.key(0), batch)
    assert result["image"].shape == (16, *output_size(14, 12, options), channels) == (16, 8, 8, channels)
    assert result["image"].dtype == result["share"].dtype == jnp.float32 and result["partner_label"].dtype == jnp.int32
    assert np.isfinite(result["image"]).all() and np.all((result["share"] >= 0) & (result["share"] <= 1))
    again, other = run(jax.random.key(0), batch), run(jax.random.key(1), batch)
    jax.tree.map(np.testing.assert_array_equal, result, again)
    assert not np.array_equal(result["image"], other["image"])


SINGLE = {name: value for name, value in EVERYTHING.items() if name not in ("mixup", "cutmix")}


@pytest.mark.parametrize("name", SINGLE)
def test_each_knob_changes_pictures_and_each_picture_by_itself(name):
    options = Augmentation(**{name: SINGLE[name]})
    batch = batch_of(np.repeat(pictures(1, 12, 12, 3), 32, axis=0))  # 32 times the same picture
    result = jit(lambda key: augment(key, batch, options, STATISTICS)["image"])(jax.random.key(0))
    different = {view.tobytes() for view in np.asarray(result)}
    assert len(different) == 2 if name == "flip" else len(different) > 10
    assert result.shape[1:3] == output_size(12, 12, options)


def test_a_picture_meets_the_same_randomness_however_the_batch_is_split():
    options = Augmentation(random_crop=12, pad_and_crop=2, flip=True, rotation=9.0, hue=0.1, pca_noise=0.1, cutout=5)
    run = jit(lambda batch: augment(jax.random.key(3), batch, options, STATISTICS)["image"])
    image = pictures(8, 14, 14, 3)
    halves = [run(batch_of(image[:4])), run(batch_of(image[4:], start=4))]
    np.testing.assert_allclose(run(batch_of(image)), np.concatenate(halves), atol=1e-6)


def test_a_large_batch_is_computed_as_small_ones_are():
    options = Augmentation(random_resized_crop=4, contrast=0.3, saturation=0.3, pca_noise=0.1)
    run = jax.jit(lambda batch: augment(jax.random.key(0), batch, options, STATISTICS)["image"])
    image = pictures(2000, 5, 5, 3)
    parts = [run(batch_of(image[start : start + 100], start)) for start in (0, 900, 1900)]
    whole = np.asarray(run(batch_of(image)))
    for start, part in zip((0, 900, 1900), parts):
        np.testing.assert_allclose(whole[start : start + 100], part, atol=1e-5)


def test_switching_one_operation_on_leaves_the_others_randomness():
    image = np.repeat(numbered(6, 6)[None] / 36, 64, axis=0)

    def run(**knobs):
        return np.asarray(jit(lambda: augment(jax.random.key(0), batch_of(image), Augmentation(**knobs))["image"])())

    plain, cropped = run(flip=True), run(flip=True, random_crop=5)
    flipped = lambda views: views[:, 0, 0, 0] > views[:, 0, -1, 0]
    np.testing.assert_array_equal(flipped(plain), flipped(cropped))


def test_the_pipeline_draws_every_crop_and_reflection_alike():
    image = np.repeat(numbered(8, 8)[None], 6400, axis=0).astype(np.uint16)
    run = jit(lambda batch: augment(jax.random.key(0), batch, Augmentation(random_crop=4, flip=True))["image"])
    view = np.round(np.asarray(run(batch_of(image)))[..., 0] * 65535).astype(int)
    first, last = view[:, 0, 0], view[:, 0, -1]
    top, left = np.divmod(np.minimum(first, last), 8)
    assert equally_often((top * 4 + left) * 2 + (first > last), geometry.crop_views(8, 8, 4, flip=True))
    follows = np.bincount(2 * (first > last)[:-1] + (first > last)[1:])  # one picture says nothing of the next
    assert stats.chi2_contingency(follows.reshape(2, 2)).pvalue > 1e-3


@pytest.mark.parametrize("knobs", [dict(mixup=0.4), dict(cutmix=1.0), dict(mixup=1.0, cutmix=1.0)])
def test_mixed_pictures_and_labels_have_the_same_partner_and_share(knobs):
    number = np.arange(32)
    image = np.broadcast_to(number[:, None, None, None], (32, 6, 6, 1)).astype(np.float32)  # picture i is all i
    batch = {**batch_of(image), "label": number.astype(np.int32)}
    result = jit(lambda key: augment(key, batch, Augmentation(**knobs)))(jax.random.key(0))
    assert sorted(result["partner_label"].tolist()) == number.tolist()
    share, mean = np.asarray(result["share"]), np.asarray(result["image"]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(mean, share * number + (1 - share) * np.asarray(result["partner_label"]), rtol=1e-5)
    assert len(set(share.tolist())) > 5


def test_mixup_and_cutmix_take_turns_by_batch():
    image = np.broadcast_to(np.arange(8)[:, None, None, None], (8, 6, 6, 1)).astype(np.float32)
    options = Augmentation(mixup=1.0, cutmix=1.0)
    result = many(lambda key: augment(key, batch_of(image), options)["image"], 1000)
    boxes = (result == np.round(result)).all(axis=(2, 3, 4))  # cutmix leaves whole numbers; so do a picture and itself
    assert abs(boxes.all(axis=1).mean() - 0.5) < 4 * 0.5 / math.sqrt(1000)


def test_partners_are_found_on_all_devices():
    if jax.device_count() < 8:
        pytest.skip("fewer than 8 devices")
    options, key = Augmentation(flip=True, mixup=1.0), jax.random.key(5)
    batch = batch_of(pictures(16, 6, 6, 3))
    whole = jit(lambda batch: augment(key, batch, options))(batch)
    spread = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    result = jax.pmap(lambda batch: augment(key, batch, options, axis_name="data"), axis_name="data")(spread)
    joined = jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), result)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), joined, whole)


def test_a_batch_laid_over_devices_is_augmented_as_on_one():
    if jax.device_count() < 2:
        pytest.skip("one device only")
    number = 2 if jax.device_count() < 8 else 8
    mesh = jax.make_mesh((number,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    laid = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    options = Augmentation(pad_and_crop=2, flip=True, mixup=1.0)
    run = jit(lambda batch: augment(jax.random.key(5), batch, options))
    batch = batch_of(pictures(16, 6, 6, 3))
    spread = run(jax.device_put(batch, laid))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), spread, run(batch))


def test_augment_traces_no_transfer_from_the_device_and_takes_raw_keys():
    options = Augmentation(flip=True, rotation=10.0, pca_noise=0.1, mixup=1.0)
    batch = jax.device_put(batch_of(pictures(4, 12, 12, 3)))
    run = jit(lambda key, batch: augment(key, batch, options, STATISTICS))
    key = jax.random.PRNGKey(0)
    typed = run(jax.random.key(0), batch)
    with jax.transfer_guard("disallow"):
        raw = run(key, batch)
    jax.tree.map(np.testing.assert_array_equal, raw, typed)


def test_pca_noise_without_statistics_says_so():
    with pytest.raises(ValueError, match="statistics"):
        augment(jax.random.key(0), batch_of(pictures(2, 4, 4, 3)), Augmentation(pca_noise=0.1))


# Evaluation.


def test_evaluation_sees_the_middle_of_what_random_crop_takes():
    image = (255 * pictures(2, 9, 12, 3)).astype(np.uint8)
    view = evaluation_view(image, Augmentation(random_crop=4, flip=True, mixup=0.2, rotation=10.0))
    np.testing.assert_array_equal(view, to_unit(image)[:, 2:6, 4:8])
    np.testing.assert_array_equal(evaluation_view(image, Augmentation(flip=True)), to_unit(image))


def test_evaluation_sees_seven_eighths_scaled_where_training_sees_parts():
    image = pictures(2, 16, 20, 1)
    view = evaluation_view(image, Augmentation(random_resized_crop=7))
    for picture, result in zip(image, view):
        expected = Image.fromarray(picture[1:15, 3:17, 0]).resize((7, 7), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(result[:, :, 0], expected, atol=1e-6)
    both = evaluation_view(image, Augmentation(random_resized_crop=7, random_crop=5))
    np.testing.assert_array_equal(both, view[:, 1:6, 1:6])


@pytest.mark.parametrize(
    "knobs, size",
    [({}, (20, 30)), (dict(random_crop=16), (16, 16)), (dict(random_resized_crop=64), (64, 64)),
     (dict(random_resized_crop=64, random_crop=56), (56, 56)), (dict(pad_and_crop=4, rotation=9.0), (20, 30))],
)  # fmt: skip
def test_output_size_is_that_of_both_views(knobs, size):
    options = Augmentation(**knobs)
    assert output_size(20, 30, options) == size
    image = np.zeros((2, 20, 30, 1), np.uint8)
    assert jax.eval_shape(lambda: augment(jax.random.key(0), batch_of(image), options))["image"].shape == (2, *size, 1)
    assert evaluation_view(image, options).shape == (2, *size, 1)


def test_a_crop_larger_than_the_picture_is_refused():
    message = r"config\.input\.augmentation\.random_crop is 32, but the pictures are 28 x 40"
    image, options = np.zeros((2, 28, 40, 1), np.uint8), Augmentation(random_crop=32)
    for call in (
        lambda: output_size(28, 40, options),
        lambda: augment(jax.random.key(0), batch_of(image), options),
        lambda: evaluation_view(image, options),
    ):
        with pytest.raises(UserError, match=message):
            call()

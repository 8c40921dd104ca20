"""A class for every pixel: losses, sums and scores against NumPy, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cnnjax.tasks.segmentation import loss, whole_images
from cnnjax.tasks.segmentation.options import Options
from cnnjax.tasks.segmentation.overlay import overlay, palette

RANDOM = np.random.default_rng(0)
B, H, W, K = 3, 6, 8, 4


def example(ignored=0.2, size=(H, W)):
    logits = RANDOM.normal(size=(B, H, W, K)).astype(np.float32) * 2
    mask = RANDOM.integers(0, K, (B, *size)).astype(np.uint8)
    mask[RANDOM.random(mask.shape) < ignored] = 255
    weights = RANDOM.uniform(0.5, 3, mask.shape).astype(np.float32)
    return logits, dict(mask=mask, pixel_weight=weights, weight=np.ones(B, np.float32))


def loss_of(options, logits, batch, smoothing=0.0):
    return np.asarray(loss.pixel_loss(Options(**options, label_smoothing=smoothing), jnp.asarray(logits), batch))


def by_pixels(logits, mask, weights, term):
    """The mean over pixels of `term(log p [K], class, weight)`, 0 where a pixel is ignored."""
    log_p = log_softmax(logits.astype(np.float64), -1)
    total = np.zeros(B)
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if mask[b, y, x] != 255:
                    total[b] += term(log_p[b, y, x], mask[b, y, x], weights[b, y, x])
    return total / (H * W)


OFF = dict(cross_entropy=0.0)


@pytest.mark.parametrize(
    "options, smoothing, term",
    [
        ({}, 0.0, lambda p, k, w: -w * p[k]),
        (dict(class_weights=(1.0, 2.0, 0.5, 3.0)), 0.0, lambda p, k, w: -w * (1, 2, 0.5, 3)[k] * p[k]),
        ({}, 0.1, lambda p, k, w: -w * (0.9 * p[k] + 0.1 * p.mean())),
        (OFF | dict(focal=2.0), 0.0, lambda p, k, w: -2 * w * (1 - np.exp(p[k])) ** 2 * p[k]),
        (OFF | dict(focal=1.0, focal_gamma=0.5), 0.0, lambda p, k, w: -w * (1 - np.exp(p[k])) ** 0.5 * p[k]),
        (dict(focal=1.0, focal_gamma=0.0), 0.0, lambda p, k, w: -2 * w * p[k]),
    ],
)
def test_losses_of_pixels(options, smoothing, term):
    logits, batch = example()
    wanted = by_pixels(logits, batch["mask"], batch["pixel_weight"], term)
    np.testing.assert_allclose(loss_of(options, logits, batch, smoothing), wanted, rtol=1e-5)


def test_the_loss_is_a_sum_over_examples_and_what_it_is_divided_by():
    logits, batch = example()
    batch["weight"] = np.array([1.0, 0.0, 1.0], np.float32)  # one is padding
    total, normaliser = Options(dice=0.5).build().loss(jnp.asarray(logits), batch)
    own = loss_of(dict(dice=0.5), logits, batch)
    assert float(total) == pytest.approx(own[0] + own[2], rel=1e-6) and float(normaliser) == 2


def test_dice():
    logits, batch = example()
    p = np.exp(log_softmax(logits.astype(np.float64), -1))
    wanted = np.zeros(B)
    for b in range(B):
        counted = batch["mask"][b] != 255
        for k in range(K):
            t, q = (batch["mask"][b] == k)[counted], p[b, ..., k][counted]
            wanted[b] += (1 - (2 * (t * q).sum() + 1) / (t.sum() + q.sum() + 1)) / K
    np.testing.assert_allclose(loss_of(OFF | dict(dice=1.0), logits, batch), wanted, rtol=1e-5)
    both = loss_of(dict(cross_entropy=2.0, dice=0.5), logits, batch)
    np.testing.assert_allclose(both, 2 * loss_of({}, logits, batch) + 0.5 * wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, dict(dice=1.0, focal=1.0), OFF | dict(focal=1.0, focal_gamma=0.5), dict(focal=1.0, focal_gamma=0.0)]
)
def test_gradients_are_finite_where_the_network_is_sure(options):
    logits, batch = example()
    logits = 300 * logits
    task = Options(**options).build()
    gradient = jax.grad(lambda x: task.loss(x, batch)[0])(jnp.asarray(logits))
    assert np.isfinite(np.asarray(gradient)).all()
    assert not np.asarray(gradient)[batch["mask"] == 255].any()


def test_smaller_logits_are_of_the_middle():
    logits, batch = example(size=(H + 4, W + 6))
    middle = {name: array[:, 2:-2, 3:-3] if array.ndim == 3 else array for name, array in batch.items()}
    options = dict(dice=1.0)
    np.testing.assert_array_equal(loss_of(options, logits, batch), loss_of(options, logits, middle))
    task = Options().build()
    jax.tree.map(np.testing.assert_array_equal, task.metrics(logits, batch, True), task.metrics(logits, middle, True))


def test_sums_and_scores():
    logits, batch = example()
    batch["weight"][1] = 0
    task = Options().build()
    sums = jax.tree.map(np.asarray, jax.jit(task.metrics, static_argnums=2)(logits, batch, True))
    counted = (batch["mask"] != 255) & (batch["weight"] > 0)[:, None, None]
    t, q = batch["mask"][counted], logits.argmax(-1)[counted]
    confusion = np.zeros((K, K))
    np.add.at(confusion, (t, q), 1)
    np.testing.assert_array_equal(sums["confusion"], confusion)
    assert sums["count"] == 2 and sums["pixels"] == counted.sum() and sums["correct"] == (t == q).sum()
    nll = -log_softmax(logits.astype(np.float64), -1)[counted][np.arange(len(t)), t]
    assert sums["loss"] == pytest.approx(nll.sum(), rel=1e-5)
    scores = task.scores(sums)
    iou = [((t == k) & (q == k)).sum() / ((t == k) | (q == k)).sum() for k in range(K)]
    dice = [2 * ((t == k) & (q == k)).sum() / ((t == k).sum() + (q == k).sum()) for k in range(K)]
    assert scores == pytest.approx(
        dict(loss=nll.mean(), accuracy=(t == q).mean(), mean_iou=np.mean(iou), mean_dice=np.mean(dice)), rel=1e-5
    )
    summary = task.summary(sums, tuple("abcd"))
    assert [row["iou"] for row in summary["classes"]] == pytest.approx(iou)
    assert summary["classes"][2]["recall"] == pytest.approx(((t == 2) & (q == 2)).sum() / (t == 2).sum())
    assert summary["classes"][2]["precision"] == pytest.approx(((t == 2) & (q == 2)).sum() / (q == 2).sum())
    assert "a  " in "\n".join(task.summary_lines(summary))


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    task = Options().build()
    sums = dict(count=1.0, pixels=10, loss=1.0, correct=6)
    sums |= dict(true=np.array([6, 4, 0]), predicted=np.array([8, 2, 0]), both=np.array([5, 1, 0]))
    assert task.scores(sums)["mean_iou"] == pytest.approx((5 / 9 + 1 / 5) / 2)
    nothing = {name: np.zeros_like(value) for name, value in sums.items()}
    assert task.scores(nothing)["mean_iou"] == 0 and task.summary(nothing, ("a", "b", "c"))["classes"][0]["iou"] == 0


def outputs_of(pictures, kept=4, before=2, batch=3):
    """Tiles of (truth, prediction, instances) by hand, in batches, the last filled up."""
    side, rows = kept + 2 * before, []
    for number, (true, predicted, objects) in enumerate(pictures):
        height, width = true.shape
        pad = lambda a: np.pad(a, ((before, before + kept), (before, before + kept)))
        for top in range(0, height, kept):
            for left in range(0, width, kept):
                there = slice(top, top + side), slice(left, left + side)
                place = [number, height, width, top, left, before, kept]
                rows.append([pad(a)[there] for a in (true, predicted, objects)] + [np.array(place, np.int32), 1.0])
    rows += [rows[-1][:-1] + [0.0]] * (-len(rows) % batch)
    for start in range(0, len(rows), batch):
        mask, predicted, objects, tile, weight = map(np.stack, zip(*rows[start : start + batch]))
        image = np.stack([mask] * 3, -1)
        probabilities = np.eye(K, dtype=np.float32)[predicted]
        yield start, dict(image=image, mask=mask, instances=objects, tile=tile, weight=weight), probabilities


def test_tiles_become_pictures_again():
    shapes = [(9, 6), (1, 1), (4, 4), (13, 5)]
    pictures = [
        tuple(RANDOM.integers(0, K, shape).astype(dtype) for dtype in (np.uint8, np.uint8, np.uint16))
        for shape in shapes
    ]
    found = list(whole_images.pictures(outputs_of(pictures)))
    assert len(found) == 4
    for scene, (true, predicted, objects) in zip(found, pictures):
        np.testing.assert_array_equal(scene["true"], true)
        np.testing.assert_array_equal(scene["predicted"], predicted)
        np.testing.assert_array_equal(scene["instances"], objects)
        np.testing.assert_array_equal(scene["image"][..., 1], true)


def test_smaller_predictions_lie_in_the_middle():
    (true, predicted, objects) = picture = tuple(RANDOM.integers(0, K, (7, 7)).astype(np.uint8) for _ in range(3))
    cropped = [(first, batch, p[:, 1:-1, 1:-1]) for first, batch, p in outputs_of([picture])]
    (scene,) = whole_images.pictures(cropped)
    np.testing.assert_array_equal(scene["predicted"], predicted)


def test_objects_are_looked_at_where_the_data_have_them():
    true = np.zeros((8, 8), np.uint16)
    true[1:4, 1:4], true[5:8, 5:8] = 1, 2
    mask, predicted = (true > 0).astype(np.uint8), (true == 1).astype(np.uint8)
    task = Options().build()
    sums, shown = task.look(outputs_of([(mask, predicted, true), (mask, mask, true)]))
    assert sums["scenes"] == 2 and sums["found"][0] == 3 and sums["missed"][0] == 1 and sums["pictures"] == 2
    assert [(e["true"] != e["predicted"]).sum() for e in shown] == [9, 0]  # the worst first
    without = [
        (n, {k: v for k, v in b.items() if k != "instances"}, p) for n, b, p in outputs_of([(mask, predicted, true)])
    ]
    assert set(task.look(without)[0]) == {"scenes"}
    parts = Options(objects="parts").build().look(without)[0]
    assert parts["found"][0] == 1 and parts["missed"][0] == 1
    mask[5:8, 5:8], predicted[6, 6] = 255, 1  # a part of the picture that nobody looked at
    parts = Options(objects="parts").build().look(outputs_of([(mask, predicted, true)]))[0]
    assert parts["found"][0] == 1 and parts["missed"][0] == parts["invented"][0] == 0
    figures = task.figures(dict(confusion=np.eye(2)), shown, ("a", "b"))
    assert set(figures) == {"confusion_matrix", "worst_pictures"}


def test_overlays():
    colours = palette()
    assert len({tuple(c) for c in colours[:21]}) == 21 and not colours[0].any()
    assert (colours[1:].max(-1) - colours[1:].min(-1)).min() > 100  # no greys
    image = np.full((4, 4, 1), 100, np.uint8)
    mask = np.array([[0, 0, 0, 0]] + [[0, 1, 1, 1]] * 3, np.uint8)
    shown = overlay(image, mask)
    np.testing.assert_array_equal(shown[0, 0], [100, 100, 100])
    np.testing.assert_array_equal(shown[2, 1], colours[1])  # the outline
    np.testing.assert_array_equal(shown[2, 2], (0.5 * colours[1] + 50).astype(np.uint8))


@pytest.mark.parametrize("names, shown", [(("cell", "membrane"), True), (("a", "b", "c"), False)])
def test_the_pixel_error_is_shown_of_two_classes(names, shown):
    counts = np.array([6.0, 3.0, 1.0][: len(names)])
    sums = dict(count=1, pixels=10, loss=1.0, correct=9, true=counts, predicted=counts, both=counts)
    task = Options().build()
    text = "\n".join(task.summary_lines(task.summary(sums, names)))
    assert ("pixel accuracy 90.00%, pixel error 10.00%" in text) == shown

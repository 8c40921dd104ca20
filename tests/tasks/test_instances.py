"""Objects: found, matched, scored; against what is worked out by hand or pair by pair."""

import tracemalloc

import numpy as np
import pytest

from cnnjax.tasks.segmentation import instances

RANDOM = np.random.default_rng(0)


def blobs(size=40, count=12):
    """Overlapping squares with numbers that are not contiguous."""
    labels = np.zeros((size, size), np.int32)
    for number in RANDOM.permutation(5 * count)[:count] + 1:
        row, column, side = *RANDOM.integers(0, size, 2), RANDOM.integers(2, 12)
        labels[row : row + side, column : column + side] = number
    return labels


def test_objects_by_hand():
    foreground = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
    labels = instances.objects(foreground)
    assert labels.max() == 4 and labels[0, 1] != labels[1, 2]  # touching at a corner is not enough
    assert len(np.unique(labels[labels > 0])) == 4
    larger = instances.objects(foreground, smallest=2)
    assert larger.max() == 3 and larger[3, 0] == 0 and set(np.unique(larger)) == {0, 1, 2, 3}
    assert instances.objects(np.zeros((3, 3), bool)).max() == 0 and instances.objects(foreground, 3).max() == 0


@pytest.mark.parametrize("trial", range(8))
def test_sums_pair_by_pair(trial):
    true, predicted = blobs(), blobs()
    predicted = np.where(RANDOM.random(true.shape) < 0.85, true, predicted)
    truth, guesses = (np.unique(labels[labels > 0]) for labels in (true, predicted))
    table = np.array(
        [
            [((true == a) & (predicted == b)).sum() / ((true == a) | (predicted == b)).sum() for b in guesses]
            for a in truth
        ]
    )
    found = np.array([(table > t).any(1).sum() for t in instances.THRESHOLDS])
    sums = instances.object_sums(true, predicted)
    np.testing.assert_array_equal(sums["found"], found)
    np.testing.assert_array_equal(sums["missed"], len(truth) - found)
    np.testing.assert_array_equal(sums["invented"], len(guesses) - found)
    assert sums["bowl"] == pytest.approx(np.mean(found / (len(truth) + len(guesses) - found)))
    for t in instances.THRESHOLDS:  # one to one
        assert ((table > t).sum(0) <= 1).all() and ((table > t).sum(1) <= 1).all()


def test_scores_by_hand():
    true = np.array([[1, 1, 1, 1, 0, 7, 7, 0]])
    predicted = np.array([[3, 3, 3, 0, 0, 5, 5, 9]])  # 3/4; whole; invented
    sums = instances.object_sums(true, predicted)
    np.testing.assert_array_equal(sums["found"], [2] * 5 + [1] * 5)  # 3/4 is above 0.7, not above 0.75
    wanted = (5 * 2 / 3 + 5 * 1 / 4) / 10
    assert sums["bowl"] == pytest.approx(wanted)
    both = {name: value + instances.object_sums(true * 0, predicted * 0)[name] for name, value in sums.items()}
    scores = instances.object_scores(both)
    assert scores["precision"] == pytest.approx(2 / 3) and scores["recall"] == 1 and scores["f1"] == pytest.approx(0.8)
    assert scores["mean_average_precision"] == pytest.approx((wanted + 1) / 2)  # nothing there, nothing said: 1
    nothing = instances.object_scores(instances.object_sums(true, predicted * 0))
    assert nothing["f1"] == nothing["precision"] == nothing["mean_average_precision"] == 0


def test_half_is_not_more_than_half():
    true, predicted = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert instances.object_sums(true, predicted)["found"][0] == 0


def rand_by_pixels(true, predicted):
    """Over all pairs of pixels, with themselves: in the same true object, the same predicted one, both."""
    inside = true > 0
    a, b = true[inside], predicted[inside].astype(int)
    b = np.where(b > 0, b, -1 - np.arange(len(b)))  # what is said to be of none is an object each
    same_a, same_b = a[:, None] == a[None, :], b[:, None] == b[None, :]
    return (same_a & same_b).sum(), same_a.sum(), same_b.sum()


@pytest.mark.parametrize("trial", range(5))
def test_rand_pair_of_pixels_by_pair(trial):
    true, predicted = blobs(20, 6), blobs(20, 6)
    n = (true > 0).sum()
    both, truly, guessed = rand_by_pixels(true, predicted)
    sums = instances.rand_sums(true, predicted)
    assert sums == pytest.approx(dict(rand_both=both / n, rand_true=truly / n, rand_predicted=guessed / n))
    scores = instances.object_scores(instances.object_sums(true, predicted) | sums)
    assert scores["rand"] == pytest.approx(2 * both / (truly + guessed))
    assert scores["rand_split"] == pytest.approx(both / truly) and scores["rand_merge"] == pytest.approx(both / guessed)


def test_rand_of_the_truth_itself_and_of_nothing():
    true = blobs()
    perfect = instances.object_scores(instances.object_sums(true, true) | instances.rand_sums(true, true))
    assert perfect["rand"] == perfect["f1"] == perfect["mean_average_precision"] == 1
    assert set(instances.rand_sums(true * 0, true).values()) == {0.0}


def test_thousands_of_objects():
    true = np.zeros((2000, 2000), np.int32)
    corners = np.arange(0, 2000, 20)
    for number, (row, column) in enumerate((r, c) for r in corners for c in corners):
        true[row : row + 15, column : column + 15] = number + 1
    sums = instances.object_sums(true, instances.objects(true > 0))
    assert sums["found"][-1] == 10_000 and sums["invented"].sum() == 0


def test_ignored_pixels_count_for_nothing():
    true = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2]])
    predicted = np.array([[3, 3, 3, 3, 3, 3, 0, 4, 4, 0, 5, 5]])
    ignored = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1]], bool)
    true, predicted = instances.counted(np.where(ignored, 0, true), predicted, ignored)
    np.testing.assert_array_equal(true, [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0]])
    np.testing.assert_array_equal(predicted, [[3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 5, 0]])  # half of 5 is not more than half
    sums = instances.object_sums(true, predicted)
    assert sums["found"][0] == 2 and sums["invented"][0] == sums["missed"][0] == 0


def test_objects_of_a_large_picture_are_held_once():
    foreground = np.zeros((3000, 3000), bool)
    foreground[::6, ::6] = foreground[1::6, ::6] = True
    foreground[0, 0] = False
    tracemalloc.start()
    labels = instances.objects(foreground, smallest=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.dtype == np.int32 and labels.max() == 500 * 500 - 1 and labels[1, 0] == 0
    assert peak < 2 * labels.nbytes

"""Losses and scores of classification, against values by hand and scikit-learn's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.tasks.classification import loss, metrics
from cnnjax.tasks.classification.options import Options

TASK = Options().build()


def batch_of(label, weight=None):
    label = np.asarray(label, np.int32)
    return dict(
        label=label, weight=np.ones(len(label), np.float32) if weight is None else np.asarray(weight, np.float32)
    )


def test_loss_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    np.testing.assert_allclose(loss.cross_entropy(logits, batch_of([0, 2])), [-np.log(0.7), -np.log(0.5)], rtol=1e-6)


def test_label_smoothing_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    # 0.3 spread evenly: targets 0.8, 0.1, 0.1
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(loss.cross_entropy(logits, batch_of([0]), 0.3), [expected], rtol=1e-6)


def test_a_partner_shares_the_loss():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    batch = batch_of([0]) | dict(partner_label=np.array([2], np.int32), share=np.array([0.75], np.float32))
    np.testing.assert_allclose(
        loss.cross_entropy(logits, batch), [-(0.75 * np.log(0.7) + 0.25 * np.log(0.1))], rtol=1e-6
    )


def test_auxiliary_heads_add_three_tenths_of_their_loss():
    """Szegedy et al. 2015, section 5. Metrics look at the main head alone."""
    heads = [jnp.log(jnp.array([p])) for p in ([0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5])]
    outputs = dict(logits=heads[0], auxiliary=tuple(heads[1:]))
    expected = -np.log(0.7) - 0.3 * np.log(0.5) - 0.3 * np.log(0.2)
    np.testing.assert_allclose(loss.cross_entropy(outputs, batch_of([0])), [expected], rtol=1e-6)
    sums = TASK.metrics(outputs, batch_of([0]))
    assert sums["correct"] == 1 and sums["loss"] == pytest.approx(-np.log(0.7), rel=1e-6)


def test_views_are_merged_by_the_mean_of_their_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (4, 10, 3))
    mean = scipy.special.softmax(logits, axis=-1).mean(1)
    np.testing.assert_allclose(TASK.merge_views(jnp.asarray(logits, jnp.float32)), np.log(mean), rtol=1e-5, atol=1e-6)


def test_sums_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(300, 7)).astype(np.float32) * 2, rng.integers(0, 7, 300).astype(np.int32)
    sums = jax.device_get(TASK.metrics(logits, batch_of(label), detailed=True))
    probabilities, predicted = scipy.special.softmax(logits.astype(np.float64), axis=-1), logits.argmax(-1)
    np.testing.assert_array_equal(sums["confusion"], sklearn.metrics.confusion_matrix(label, predicted))
    assert sums["correct"] == (predicted == label).sum()
    np.testing.assert_allclose(sums["loss"] / 300, sklearn.metrics.log_loss(label, probabilities), rtol=1e-5)
    assert sums["correct_top5"] == sklearn.metrics.top_k_accuracy_score(label, logits, k=5, normalize=False)
    names = tuple("abcdefg")
    summary = TASK.summary(sums, names)
    report = sklearn.metrics.precision_recall_fscore_support(label, predicted, zero_division=0)
    for column, score in enumerate(("precision", "recall", "f1", "examples")):
        np.testing.assert_allclose([row[score] for row in summary["classes"]], report[column], rtol=1e-6)
    assert summary["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(label, predicted))
    assert summary["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(label, predicted))
    # calibration error, written out
    confidence, error = probabilities.max(-1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs((predicted == label)[inside].mean() - confidence[inside].mean())
    assert summary["calibration_error"] == pytest.approx(error, abs=1e-5)


def test_padding_counts_nothing_even_where_it_is_not_finite():
    logits = np.array([[2.0, 0, 0], [0, 1.0, 0], [np.nan, 0, 0]], np.float32)
    sums = jax.device_get(TASK.metrics(logits, batch_of([0, 0, 1], [1, 1, 0]), detailed=True))
    assert sums["count"] == 2 and sums["correct"] == 1 and sums["confusion"].sum() == 2
    assert np.isfinite(sums["loss"])


def test_ties_in_the_top_five_count_against_the_network():
    sums = TASK.metrics(np.zeros((1, 10), np.float32), batch_of([0]))
    assert sums["correct_top5"] == 0


def test_nan_logits_are_never_right_in_top5():
    sums = TASK.metrics(np.full((1, 10), np.nan, np.float32), batch_of([3]))
    assert sums["correct_top5"] == 0 and not np.isfinite(sums["loss"])


def test_wilson_interval_of_the_literature():
    # R: prop.test(15, 20, correct=FALSE) gives 0.5312989 to 0.8881386.
    assert metrics.wilson_interval(15, 20) == pytest.approx((0.5312989, 0.8881386), abs=1e-6)
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_interval_holds_the_proportion(count, share):
    right = round(count * share)
    low, high = metrics.wilson_interval(right, count)
    assert 0 <= low <= right / count + 1e-9 and right / count - 1e-9 <= high <= 1


# Few sizes, since each is compiled anew; as one program, which is sooner done than operation by operation.
compiled_metrics = functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))(
    functools.partial(TASK.metrics, detailed=True)
)


@pytest.mark.parametrize("examples, batch_size", [(1, 1), (1, 12), (7, 7), (23, 5), (24, 8), (40, 12)])
def test_sums_add_up_over_any_batches(examples, batch_size):
    rng = np.random.default_rng(examples)
    logits, label = rng.normal(size=(examples, 6)).astype(np.float32), rng.integers(0, 6, examples).astype(np.int32)
    whole = compiled_metrics(logits, batch_of(label))
    parts = [
        compiled_metrics(logits[i : i + batch_size], batch_of(label[i : i + batch_size]))
        for i in range(0, examples, batch_size)
    ]
    for name in ("count", "correct", "correct_top5", "confusion"):
        np.testing.assert_array_equal(sum(np.asarray(part[name]) for part in parts), whole[name])
    np.testing.assert_allclose(sum(float(part["loss"]) for part in parts), whole["loss"], rtol=1e-5)


def test_figures_are_drawn(tmp_path):
    sums = dict(confusion=np.array([[5, 1], [0, 4]]))
    mistake = dict(image=np.zeros((4, 4, 3)), label=0, predicted=1, confidence=0.9)
    for mistakes in ([], [mistake], [mistake] * 24):
        figures = TASK.figures(sums, mistakes, ("cat", "dog"))
        assert set(figures) == {"confusion_matrix", "worst_mistakes"}
        for name, figure in figures.items():
            figure.savefig(tmp_path / f"{name}.png")
    titles = [axes.get_title() for axes in figures["worst_mistakes"].axes]
    assert titles == ["cat\nnot dog (90%)"] * 24
    assert [text.get_text() for text in figures["confusion_matrix"].axes[0].texts] == ["5", "1", "4"]


def test_many_classes_print_the_worst():
    rows = [dict(name=f"c{i}", precision=i / 50, recall=1.0, f1=i / 50, examples=3) for i in range(50)]
    summary = dict(
        accuracy=0.5,
        balanced_accuracy=0.4,
        accuracy_interval=[0.4, 0.6],
        examples=150,
        loss=1.0,
        calibration_error=0.1,
        classes=rows,
    )
    lines = TASK.summary_lines(summary)
    assert len(lines) == 2 + 1 + 1 + 20 and lines[4].startswith("c0 ")

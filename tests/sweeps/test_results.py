"""Means, intervals and paired differences, against values worked out by hand and SciPy's."""

import math

import numpy as np
import pytest
from scipy import stats

from cnnjax.sweeps import picture, results
from cnnjax.sweeps.ablation import Sweep, Variant, values

SWEEP = Sweep(base="", hypothesis="Two is better.", factors=dict(depth=values("model.blocks", 1, 2)), seeds=(0, 1, 2))
VARIANTS = [Variant("base", {"depth": "1"}, {}, True), Variant("depth=2", {"depth": "2"}, {}, False)]


def rows():
    score = {("base", 0): 0.90, ("base", 1): 0.92, ("base", 2): 0.94, ("depth=2", 0): 0.93, ("depth=2", 1): 0.94}
    found = []
    for variant in VARIANTS:
        for seed in (0, 1, 2):
            value = score.get((variant.name, seed))
            row = dict(variant=variant.name, seed=seed, depth=variant.levels["depth"])
            row |= dict(
                state="done" if value else "failed", accuracy=value, reason="" if value else "The loss is not finite."
            )
            found.append(row | (dict(parameters=1000, images_per_second=50.0 + seed, extra=0.5) if value else {}))
    return found


def test_an_interval_by_hand():
    value = results.estimate([1.0, 2.0, 3.0])  # t(2) = 4.302653 at 97.5 %
    assert (value.count, value.mean, value.deviation) == (3, 2.0, 1.0)
    assert value.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_an_interval_as_scipy_has_it():
    sample = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=sample.mean(), scale=stats.sem(sample))
    assert results.estimate(sample)[3:] == pytest.approx((low, high))


def test_a_single_seed_has_no_interval_and_none_no_mean():
    one = results.estimate([0.5])
    assert one.mean == 0.5 and math.isnan(one.low)
    assert math.isnan(results.estimate([]).mean)


def test_differences_are_paired_by_seed():
    value = results.paired({0: 1.1, 1: 5.2, 9: 3.0}, {0: 1.0, 1: 5.0, 2: 7.0})  # differences 0.1 and 0.2
    assert (value.count, value.mean) == (2, pytest.approx(0.15))
    test = stats.ttest_rel([1.1, 5.2], [1.0, 5.0]).confidence_interval(0.95)
    assert (value.low, value.high) == (pytest.approx(test.low), pytest.approx(test.high))


def test_the_table_shows_means_differences_and_what_failed():
    lines = results.by_variant(SWEEP, VARIANTS, rows())
    assert lines[0]["score"].mean == pytest.approx(0.92) and lines[0]["difference"] is None
    assert lines[1]["difference"].mean == pytest.approx(0.025)  # 0.03 and 0.02
    text = results.markdown(SWEEP, lines, rows())
    assert text.startswith("Two is better.\n")
    assert "| base | 3 of 3 | 0.9200 ± 0.0200 | (0.8703 to 0.9697) |  | 1,000 |" in text
    assert "| depth=2 | 2 of 3 | 0.9350 ± 0.0071 |" in text and "| +0.0250 (-0.0385 to +0.0885) |" in text
    assert "depth=2 seed 2: failed. The loss is not finite." in text


def test_the_csv_has_one_line_a_trial():
    lines = results.as_csv(rows()).splitlines()
    assert lines[0] == "variant,seed,depth,state,accuracy,parameters,images_per_second,extra,reason"
    assert lines[1] == "base,0,1,done,0.9,1000,50,0.5,"
    assert lines[6] == "depth=2,2,2,failed,,,,,The loss is not finite."


@pytest.mark.parametrize("against", ["", "depth", "parameters", "extra"])
def test_a_picture_shows_every_variant(against):
    sweep = SWEEP._replace(against=against)
    axes = picture.draw(sweep, results.by_variant(sweep, VARIANTS, rows())).axes[0]
    if against == "depth":
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    elif against == "":
        assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "depth=2"]
    else:
        (legend,) = axes.figure.legends
        assert {text.get_text() for text in legend.get_texts()} == {"base", "depth=2"}


def test_a_picture_of_a_family_of_columns():
    sweep = SWEEP._replace(against="shift")
    found = [row | ({"shift 0": 1.0, "shift 2": 0.5} if row["state"] == "done" else {}) for row in rows()]
    axes = picture.draw(sweep, results.by_variant(sweep, VARIANTS, found)).axes[0]
    assert [list(curve.get_xdata()) for curve in axes.lines] == [[0.0, 2.0]] * 2

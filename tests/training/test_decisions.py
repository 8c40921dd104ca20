"""What is due at a step, by tables: each row is one situation, worked out by hand from the help texts of the config."""

import math

import pytest

from cnnjax.training import decisions
from cnnjax.training.decisions import Due, Progress, Rules

# 100 steps, an evaluation every 10, a checkpoint every minute, an entry of the log every 4 steps, no early stopping.
RULES = Rules(
    total_steps=100, evaluate_every=10, save_seconds=60.0, log_every=4, early_stopping=0, higher_is_better=True
)
PROGRESS = Progress(
    step=7, evaluated=False, scores=None, best=0.5, saved_step=3, save_at=1000.0, failures=0, stopping=False
)


def at(step, **changes):
    return PROGRESS._replace(step=step, **changes)


@pytest.mark.parametrize("why, progress, asked, wanted", [
    ("nothing is due between two evaluations", at(7), {}, ""),
    ("nothing is due before the first step", at(0), {}, ""),
    ("an evaluation is due", at(10), {}, "evaluate"),
    ("it was made before the state was saved", at(10, evaluated=True), {}, ""),
    ("the clock asks, and the log is written", at(8), dict(asked_to_save=True), "save"),
    ("the clock asks, and the log is not written", at(7), dict(asked_to_save=True), ""),
    ("the clock asks at an evaluation between two entries", at(10), dict(asked_to_save=True), "evaluate"),
    ("a signal", at(7), dict(asked_to_stop=True), "save leave"),
    ("a signal before the first step", at(0), dict(asked_to_stop=True), "save leave"),
    ("a signal where an evaluation is due", at(10), dict(asked_to_stop=True), "evaluate save leave"),
    ("the last step, whether or not an evaluation falls on it", at(100), {}, "evaluate save leave"),
    ("the run is longer than it is to be", at(103), {}, "evaluate save leave"),
    ("the last step, evaluated already", at(100, evaluated=True), {}, "save leave"),
    ("early stopping was decided before the run was saved", at(30, evaluated=True, stopping=True), {}, "save leave"),
])  # fmt: skip
def test_what_is_due(why, progress, asked, wanted):
    asked = dict(asked_to_stop=False, asked_to_save=False) | asked
    expected = Due(*(name in wanted.split() for name in Due._fields))
    assert decisions.due(RULES, progress, **asked) == expected, why


@pytest.mark.parametrize("step, leaves", [(10, False), (100, True)])
def test_without_validation_nothing_is_evaluated(step, leaves):
    rules = RULES._replace(evaluate_every=None)
    found = decisions.due(rules, at(step), asked_to_stop=False, asked_to_save=False)
    assert found == Due(evaluate=False, save=leaves, leave=leaves)


@pytest.mark.parametrize("every, now, time", [(60.0, 999.9, False), (60.0, 1000.0, True), (0.0, 2000.0, False)])
def test_the_clock_asks_for_a_checkpoint(every, now, time):
    """With 0 minutes each evaluation does, and no clock."""
    assert decisions.is_time_to_save(RULES._replace(save_seconds=every), PROGRESS, now) == time


@pytest.mark.parametrize("step, moves", [(10, True), (90, True), (95, False), (100, True)])
def test_an_evaluation_off_the_beat_moves_neither_plateau_nor_early_stopping(step, moves):
    """Such as the one at the end of a run of 95 steps, which a run of 100 would not make."""
    assert decisions.moves_on(RULES, step) == moves
    assert not decisions.moves_on(RULES._replace(evaluate_every=None), step)


@pytest.mark.parametrize("higher, score, best, is_best", [
    (True, 0.6, 0.5, True),
    (True, 0.5, 0.5, True),  # the newest of equals
    (True, 0.4, 0.5, False),
    (False, 0.4, 0.5, True),
    (False, 0.5, 0.5, True),
    (False, 0.6, 0.5, False),
    (True, -9.0, None, True),  # the first
    (False, 9.0, None, True),
    (True, math.nan, None, False),
    (True, math.inf, 0.5, False),
    (False, -math.inf, 0.5, False),
])  # fmt: skip
def test_which_score_is_the_best(higher, score, best, is_best):
    rules = RULES._replace(higher_is_better=higher)
    assert decisions.is_best(rules, PROGRESS._replace(best=best), score) == is_best


NOTHING, EVALUATE = Due(False, False, False), Due(True, False, False)


@pytest.mark.parametrize("why, changes, score, waited, best, save, leave", [
    ("a better score", {}, 0.6, 0, 0.6, True, False),
    ("an equal score", {}, 0.5, 1, 0.5, True, False),
    ("a worse score", {}, 0.4, 1, 0.5, False, False),
    ("a worse score, where each evaluation is saved", dict(save_seconds=0.0), 0.4, 1, 0.5, True, False),
    ("patience is left", dict(early_stopping=3), 0.4, 2, 0.5, False, False),
    ("patience is at its end", dict(early_stopping=3), 0.4, 3, 0.5, True, True),
    ("no score at all", {}, math.nan, 1, 0.5, False, False),
])  # fmt: skip
def test_what_an_evaluation_changes(why, changes, score, waited, best, save, leave):
    rules, scores = RULES._replace(**changes), dict(accuracy=score)
    progress, due = decisions.after_evaluation(rules, at(10), EVALUATE, scores, score, waited)
    assert progress == at(10, evaluated=True, scores=scores, best=best, saved_step=None, stopping=leave), why
    assert due == EVALUATE._replace(save=save, leave=leave), why


def test_a_checkpoint_of_the_same_step_without_the_scores_is_written_anew():
    """The one that a signal left behind just before the evaluation."""
    progress, _ = decisions.after_evaluation(RULES, at(10, saved_step=10), EVALUATE, dict(accuracy=0.6), 0.6, 0)
    assert progress.saved_step is None


def test_what_was_due_stays_due_after_an_evaluation():
    _, due = decisions.after_evaluation(RULES, at(100), Due(True, True, True), dict(accuracy=0.1), 0.1, 1)
    assert due.save and due.leave


def test_a_signal_within_an_evaluation_saves_and_leaves():
    assert decisions.after_interruption(EVALUATE) == Due(evaluate=True, save=True, leave=True)


def test_after_a_save_the_clock_begins_anew():
    assert decisions.after_save(RULES, at(8), 500.0) == at(8, saved_step=8, save_at=560.0)


@pytest.mark.parametrize("lost, saved_step, save_at, expected", [
    (8, None, 1000.0, 960.0),  # the last one failed: there is no checkpoint of its step, and the next comes in a minute
    (None, 8, 1000.0, 960.0),  # an earlier one failed
    (8, None, 930.0, 930.0),  # the next was due sooner
])  # fmt: skip
def test_after_a_save_that_failed(lost, saved_step, save_at, expected):
    before = at(8, saved_step=8, save_at=save_at, best=0.9)
    found = decisions.after_failed_saves(before, failures=1, lost=lost, best=0.5, now=900.0)
    assert found == before._replace(failures=1, best=0.5, saved_step=saved_step, save_at=expected)


def test_a_step_leaves_its_evaluation_behind():
    before = at(10, evaluated=True, scores=dict(accuracy=0.6))
    assert decisions.after_step(before) == at(11, evaluated=False, scores=None)

"""How far a trial is, from run directories written by hand."""

import json

import pytest

from cnnjax import serialization
from cnnjax.sweeps import status
from cnnjax.sweeps.ablation import Trial


def trial_in(folder, **changes):
    config = serialization.new_config()
    for name, value in changes.items():
        setattr(config, name, value)
    return Trial(variant=None, seed=0, folder=folder, arguments=(), config=config)


def write_entries(folder, **columns):
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    entries = [dict(step=10 * n, epoch=float(n), split="validation", **row) for n, row in enumerate(rows, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.mark.parametrize("score, best", [("accuracy", 0.8), ("loss", 0.3), ("calibration.other", None)])
def test_the_best_score_is_the_highest_or_the_lowest_as_the_task_says(tmp_path, score, best):
    write_entries(tmp_path, accuracy=[0.5, 0.8, 0.7], loss=[0.9, 0.3, 0.4])
    step, progress, found = status.progress_of(trial_in(tmp_path, steps=60), score)
    assert (step, progress, found) == (30, 0.5, best)


@pytest.mark.parametrize("changes, done", [({}, True), (dict(steps=40), False), (dict(epochs=99.0), False)])
def test_a_trial_of_which_more_is_asked_now_is_not_done(tmp_path, changes, done):
    trial = trial_in(tmp_path, steps=30)
    (tmp_path / "config.json").write_text(json.dumps(serialization.to_json(trial.config)))
    (tmp_path / "summary.json").write_text(json.dumps(dict(steps=30, accuracy=0.8)))
    (tmp_path / "checkpoints" / "30").mkdir(parents=True)
    for name, value in changes.items():
        setattr(trial.config, name, value)
    assert (status.finished(trial) is not None) == done


def test_a_trial_whose_newest_checkpoint_is_not_that_of_its_summary_is_not_done(tmp_path):
    trial = trial_in(tmp_path, steps=30)
    (tmp_path / "config.json").write_text(json.dumps(serialization.to_json(trial.config)))
    (tmp_path / "summary.json").write_text(json.dumps(dict(steps=30)))
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    assert status.finished(trial) is None

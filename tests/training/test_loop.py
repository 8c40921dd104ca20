"""Whole runs: resume, stop, failure, fine-tuning."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.data.sources.choices import ClassFolder
from cnnjax.errors import RunError, UserError
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training.logbook import read_entries
from tests.training.short_runs import assert_equal_trees, saved, small_config, timeless, train


def test_a_run_in_two_halves_equals_one_in_one(tmp_path):
    # Beta(1, 1) is uniform: any other is drawn by a program that takes seconds to compile.
    everything = dict(
        ema_decay=0.9, accumulate=2, input__augmentation__mixup=1.0, schedule__name="plateau", early_stopping=9
    )
    everything |= dict(checkpoint__test="last")  # the best may be that of step 8, where only one of them is evaluated
    whole, _ = train(tmp_path / "whole", **everything)
    train(tmp_path / "halves", **everything, steps=8)
    again, log = train(tmp_path / "halves", **everything, steps=12)
    assert "Going on from step 8 of 12." in log
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "halves"))
    assert timeless(read_entries(tmp_path / "whole")) != []
    whole_log, halves_log = (timeless(read_entries(tmp_path / name)) for name in ("whole", "halves"))
    assert [e for e in halves_log if e not in whole_log] == [
        e for e in halves_log if e["step"] == 8 and e["split"] == "validation"
    ]
    assert again["accuracy"] == whole["accuracy"] and again["loss"] == whole["loss"]


def test_the_run_directory_tells_everything(tmp_path):
    summary, log = train(tmp_path, pictures=True)
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"config.json", "dataset.json", "environment.json", "metrics.jsonl", "summary.json", "checkpoints"}
    assert files >= {"learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"}
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"] == summary["accuracy"]
    assert summary["examples"] == 899 and summary["tested_step"] == 12
    low, high = summary["accuracy_interval"]
    assert low < summary["accuracy"] < high
    entries = read_entries(tmp_path)
    assert [e["step"] for e in entries if e["split"] == "train"] == [4, 8, 12]
    train_entry = entries[0]
    assert {
        "loss",
        "accuracy",
        "learning_rate",
        "grad_norm",
        "param_norm",
        "images_per_second",
        "epoch",
    } <= train_entry.keys()
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert dataset["split_sizes"] == dict(train=808, validation=90, test=899) and dataset["class_names"] == list(
        "0123456789"
    )
    assert "95 % interval" in log and str(tmp_path) in log


def test_tensorboard_events_can_be_read(tmp_path, trained):
    import struct

    from tensorboardX.proto.event_pb2 import Event

    trained(tmp_path)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, tags = path.read_bytes(), {}
    while data:  # TFRecord framing: length, its checksum, the record, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        for value in Event.FromString(data[12 : 12 + length]).summary.value:
            tags.setdefault(value.tag, []).append(value.simple_value)
        data = data[16 + length :]
    assert len(tags["train/loss"]) == 3 and "train/learning_rate" in tags and "validation/accuracy" in tags
    assert tags["train/grad_norm"][0] > 0


def test_a_complete_run_is_not_tested_again(tmp_path, trained):
    first = trained(tmp_path)
    before = (tmp_path / "summary.json").stat().st_mtime_ns
    again, log = train(tmp_path)
    assert again["accuracy"] == first["accuracy"] and "complete" in log
    assert (tmp_path / "summary.json").stat().st_mtime_ns == before


def test_another_identity_is_refused_and_nothing_is_touched(tmp_path, trained):
    trained(tmp_path, steps=4)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"another configuration: config.optimizer.learning_rate was 0.1, now 0.2"):
        train(tmp_path, optimizer__learning_rate=0.2)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_before_anything_of_it_is_saved(tmp_path):
    with pytest.raises(RunError) as error:
        train(tmp_path / "run", optimizer__learning_rate=1e38, model__normalization="none")
    message = str(error.value)
    assert "not finite at step" in message and "There is no checkpoint yet" in message and "learning_rate" in message
    assert not (tmp_path / "run" / "checkpoints").exists()
    # What the message says to try can be tried in the same directory, for nothing of the run is there yet.
    summary, _ = train(tmp_path / "run", optimizer__learning_rate=0.1, model__normalization="none", steps=4)
    assert summary["steps"] == 4


def test_a_run_that_diverges_after_a_checkpoint_names_it(tmp_path):
    train(tmp_path, steps=4, optimizer__learning_rate=0.1)
    config = json.loads((tmp_path / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 1e38  # the run as it were, had it begun with this rate
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="The last good checkpoint is of step 4"):
        train(tmp_path, optimizer__learning_rate=1e38)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.newest() == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path)["params"]))


def test_early_stopping_and_plateau_wait_for_validation(tmp_path):
    changes = dict(optimizer__learning_rate=1e-9, schedule__name="plateau", schedule__patience=1, schedule__factor=0.5)
    summary, log = train(tmp_path, steps=60, evaluate_every=0.16, early_stopping=3, model__dropout=0.0,
                         model__normalization="none", input__augmentation__shift=0.0, **changes)  # fmt: skip
    assert "Stopping early" in log and summary["steps"] == 8  # evaluations at 2, 4, 6, 8: the first is the best
    rates = [e["learning_rate"] for e in read_entries(tmp_path) if e["split"] == "train"]
    np.testing.assert_allclose(rates, [1e-9, 1e-9, 0.5e-9, 0.25e-9], rtol=1e-5)
    again, log = train(tmp_path, steps=60, evaluate_every=0.16, early_stopping=3, model__dropout=0.0,
                       model__normalization="none", input__augmentation__shift=0.0, **changes)  # fmt: skip
    assert again["steps"] == 8 and "complete (8 steps)" in log  # a stopped run stays stopped


def test_evaluations_may_be_counted_in_steps(tmp_path):
    train(tmp_path, steps=11, evaluate_every=4, evaluate_unit="steps")
    assert [e["step"] for e in read_entries(tmp_path) if e["split"] == "validation"] == [4, 8, 11]


def test_the_best_checkpoint_is_kept_and_tested(tmp_path):
    """The rate explodes late: the best is then not the last."""
    changes = dict(
        schedule__name="constant", checkpoint__every_minutes=0.0, checkpoint__keep=1, evaluate_every=0.3, steps=40
    )
    summary, _ = train(tmp_path, optimizer__learning_rate=3.0, **changes)
    scores = {e["step"]: e["accuracy"] for e in read_entries(tmp_path) if e["split"] == "validation"}
    best = max(scores, key=lambda step: (scores[step], step))
    assert summary["tested_step"] == best
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best() == best and checkpoints.newest() == 40


def test_without_validation_the_last_is_tested(tmp_path):
    summary, log = train(tmp_path, data__validation_fraction=0.0, data__train="train[:50%]")
    assert summary["tested_step"] == 12 and "step 12 (last)" in log
    assert {e["split"] for e in read_entries(tmp_path)} == {"train"}
    with pytest.raises(UserError, match="early_stopping needs a validation split"):
        cnnjax.build(small_config(data__validation_fraction=0.0, early_stopping=2))


def test_fine_tuning_takes_a_run_with_another_head(tmp_path, trained, digits_folder):
    trained(tmp_path / "first")
    folder = dict(source=ClassFolder(dir=str(digits_folder)), input__size=8)
    summary, log = train(
        tmp_path / "second",
        init_from=str(tmp_path / "first"),
        optimizer__frozen=("stage0*",),
        batch_size=8,
        steps=3,
        **folder,
    )
    assert f"Parameters from {tmp_path / 'first'}, step 12; new: output/bias, output/kernel." in log
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second")
    assert_equal_trees(first["params"]["stage0_block0"], second["params"]["stage0_block0"])
    assert_equal_trees(first["batch_stats"], second["batch_stats"])
    assert second["params"]["output"]["bias"].shape == (3,)
    shutil.rmtree(tmp_path / "first")  # a run that has begun no longer needs its source
    again = dict(init_from=str(tmp_path / "first"), optimizer__frozen=("stage0*",), batch_size=8, steps=4)
    _, log = train(tmp_path / "second", **again, **folder)
    assert "Going on from step 3 of 4." in log and "Parameters from" not in log


def test_fine_tuning_from_no_run_or_another_architecture_is_refused(tmp_path, trained):
    with pytest.raises(UserError, match="nothing is no run directory"):
        train(tmp_path / "a", init_from=str(tmp_path / "nothing"))
    trained(tmp_path / "first", steps=4)
    config = small_config(init_from=str(tmp_path / "first"))
    config.model = cnnjax.model("lenet5")
    with pytest.raises(UserError, match="another architecture"):
        cnnjax.fit(cnnjax.build(config), tmp_path / "b", log=lambda line: None)


def test_one_device_and_eight_agree(tmp_path, trained):
    trained(tmp_path / "1")
    train(tmp_path / "8", devices=8)
    one, eight = (read_entries(tmp_path / name) for name in ("1", "8"))
    for a, b in zip(one, eight, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_the_place_of_the_data_changes_no_number(tmp_path, trained, placement):
    trained(tmp_path / "host", data__placement="host", steps=4)
    train(tmp_path / placement, data__placement=placement, steps=4)
    assert_equal_trees(saved(tmp_path / "host"), saved(tmp_path / placement))


def test_batches_that_devices_do_not_divide_are_refused():
    with pytest.raises(UserError, match="config.batch_size=60 is not divisible by the 8 devices: take 64"):
        cnnjax.build(small_config(batch_size=60, devices=0))
    with pytest.raises(UserError, match="config.devices is 9, but there are 8"):
        cnnjax.build(small_config(devices=9))


def test_a_file_in_the_way_of_the_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        train(tmp_path / "file")


@pytest.mark.parametrize(
    "optimizer", ["adamw", "muon", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lamb", "lars"))]
)
def test_every_optimizer_trains_and_resumes(tmp_path, optimizer):
    rate = dict(adamw=0.01, lamb=0.02, lars=10.0, muon=0.01)[optimizer]
    changes = dict(optimizer__name=optimizer, optimizer__learning_rate=rate, optimizer__clip_norm=1.0)
    train(tmp_path, steps=4, **changes)
    train(tmp_path, steps=12, **changes)
    losses = [e["loss"] for e in read_entries(tmp_path) if e["split"] == "train"]
    assert losses[-1] < losses[0]


def test_bfloat16_remat_and_highest_precision_train_alike(tmp_path):
    train(tmp_path / "float32", task__label_smoothing=0.1)
    train(tmp_path / "bfloat16", dtype="bfloat16", remat=True, matmul_precision="highest", task__label_smoothing=0.1)
    a, b = ([e["loss"] for e in read_entries(tmp_path / n) if e["split"] == "train"] for n in ("float32", "bfloat16"))
    np.testing.assert_allclose(a, b, rtol=0.05)
    assert a != b
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(saved(tmp_path / "bfloat16")))


def test_the_log_survives_a_line_that_was_cut_off(tmp_path, trained):
    trained(tmp_path, steps=4)
    with (Path(tmp_path) / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"a": 1}\n{"step": "x"}\n')
    with (Path(tmp_path) / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 99, "los')
    train(tmp_path, steps=8)
    assert [e["step"] for e in read_entries(tmp_path) if e["split"] == "train"] == [4, 8]

"""Checkpoints: which are kept, what damage is noticed, and what a disk that refuses does."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import RunError, UserError
from cnnjax.run_directory import checksums, records
from cnnjax.run_directory.checkpoint import Checkpoints, exist

MODEL = dict(params=dict(dense=dict(kernel=jnp.arange(6.0).reshape(2, 3))), batch_stats={}, ema_params={})
TRAINING = dict(step=jnp.int32(0), key=jnp.arange(2, dtype=jnp.uint32))


def write(workdir, scores, **options):
    """One checkpoint for each (step, accuracy); every value of the model is the step. Returns what was logged."""
    lines = []
    with Checkpoints(workdir, log=lines.append, **options) as checkpoints:
        for step, accuracy in scores:
            model = jax.tree.map(lambda x, n=step: jnp.full_like(x, n), MODEL)
            scored = None if accuracy is None else dict(accuracy=accuracy, loss=-accuracy)
            checkpoints.save(step, model, TRAINING | dict(step=jnp.int32(step)), dict(scores=scored))
        checkpoints.poll(wait=True)
    return lines


def read(workdir, which="last", **options):
    """(step that was chosen, a value of its model, what was logged)."""
    lines = []
    with Checkpoints(workdir, log=lines.append, **options) as checkpoints:
        step = checkpoints.chosen(which)
        return step, checkpoints.restore(step, MODEL, TRAINING)[0]["params"]["dense"]["kernel"][0, 0], lines


def steps(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.steps()


def test_the_newest_and_the_best_are_kept(tmp_path):
    write(tmp_path, [(1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.2)], keep=2)
    assert steps(tmp_path) == [2, 4, 5]
    assert read(tmp_path) == (5, 5.0, []) and read(tmp_path, "best") == (2, 2.0, [])


def test_of_equal_scores_the_newest_is_best(tmp_path):
    write(tmp_path, [(1, 0.9), (2, 0.9), (3, 0.1), (4, float("nan"))], keep=1)
    assert steps(tmp_path) == [2, 4] and read(tmp_path, "best")[0] == 2


def test_the_smallest_loss_is_best(tmp_path):
    write(
        tmp_path, [(1, 0.9), (2, 0.5), (3, 0.7)], keep=1, best_metric="loss", higher_is_better=False
    )  # losses are the negatives
    assert read(tmp_path, "best", best_metric="loss", higher_is_better=False)[0] == 1


def test_without_a_score_the_last_is_taken_and_nothing_is_nothing(tmp_path):
    with Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.chosen("best") is None and checkpoints.best_score() is None and not exist(tmp_path / "a")
    write(tmp_path / "b", [(3, None)])
    assert read(tmp_path / "b", "best")[0] == 3


def test_arrays_may_change_as_soon_as_save_returns(tmp_path):
    """Donated to the next step, as in training, whatever the writing thread does meanwhile."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    model = dict(MODEL, params=dict(a=jnp.zeros(2_000_000), b=jnp.zeros((3, 3))))
    with Checkpoints(tmp_path, keep=100) as checkpoints:
        for step in range(5):
            checkpoints.save(step, model, TRAINING, dict(scores=None))
            for _ in range(3):
                model = add(model)
        checkpoints.poll(wait=True)
        for step in range(5):
            saved = checkpoints.restore_model(step)["params"]
            assert (saved["a"] == 3 * step).all() and (saved["b"] == 3 * step).all()


def test_a_standard_tool_can_check_the_sums(tmp_path):
    import hashlib

    write(tmp_path, [(7, 0.5)])
    folder = tmp_path / "checkpoints" / "7"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == len([p for p in folder.rglob("*") if p.is_file()]) - 1
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def files_of(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip_one_bit(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut_off(path, rng):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def remove(path, rng):
    path.unlink()


@pytest.mark.parametrize("harm", [flip_one_bit, cut_off, remove])
def test_every_file_that_is_harmed_is_noticed_and_the_one_before_is_used(tmp_path, harm):
    write(tmp_path / "whole", [(1, 0.5), (2, 0.6)])
    rng = np.random.default_rng(0)
    count = len(files_of(tmp_path / "whole", 2))
    assert count > 15
    for n in range(count):
        workdir = tmp_path / str(n)
        shutil.copytree(tmp_path / "whole", workdir)
        path = files_of(workdir, 2)[n]
        harm(path, rng)
        step, value, log = read(workdir)
        assert (step, value) == (1, 1.0), path
        (line,) = log
        name = path.relative_to(workdir / "checkpoints" / "2").as_posix()
        assert line.startswith("The checkpoint of step 2 is damaged: ") and "set aside as 2.damaged" in line
        assert name in line or name == "SHA256SUMS"
        assert (workdir / "checkpoints" / "2.damaged").is_dir() and steps(workdir) == [1]
        shutil.rmtree(workdir)


def test_a_file_that_does_not_belong_is_noticed(tmp_path):
    write(tmp_path, [(1, 0.5)])
    (tmp_path / "checkpoints" / "1" / "model" / "stranger").write_text("x")
    assert checksums.damage(tmp_path / "checkpoints" / "1") == "model/stranger does not belong to it"


def test_where_none_is_whole_it_says_so_every_time(tmp_path):
    write(tmp_path, [(1, 0.5), (2, 0.6)])
    for step in (1, 2):
        cut_off(files_of(tmp_path, step)[-1], np.random.default_rng(step))
    for _ in range(2):
        with pytest.raises(RunError, match="Every checkpoint in .* is damaged"), Checkpoints(tmp_path) as checkpoints:
            checkpoints.chosen("last")
        assert exist(tmp_path)  # so that the run is not taken for a new one


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_reader_takes_the_one_before_and_sets_nothing_aside(tmp_path, which):
    write(tmp_path, [(1, 0.5), (2, 0.6)])
    remove(files_of(tmp_path, 2)[0], None)
    step, value, lines = read(tmp_path, which, read_only=True)
    assert (step, value) == (1, 1.0) and len(lines) == 1
    assert re.search("step 2 is damaged: .* is missing. It is passed over", lines[0])
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "left", ["3.incomplete", "3.incomplete.orbax-checkpoint-tmp", "3.incomplete.orbax-checkpoint-tmp-17"]
)
def test_what_was_half_written_is_never_used(tmp_path, left):
    write(tmp_path, [(1, 0.5)])
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / left)
    (tmp_path / "checkpoints" / left / "SHA256SUMS").unlink()  # written last
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
    assert (tmp_path / "checkpoints" / left).exists()  # a reader leaves it alone: it may be under way
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.chosen("last") == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_checkpoint_of_a_gpu_is_read_on_a_cpu(tmp_path):
    """Orbax notes on which device each array lay; nothing here looks at it."""
    write(tmp_path, [(1, 0.5)])
    folder = tmp_path / "checkpoints" / "1"
    for path in folder.rglob("_sharding"):
        noted = path.read_text()
        assert "cpu:0" in noted
        path.write_text(noted.replace("cpu:0", "cuda:7"))
    checksums.write(folder)
    assert read(tmp_path) == (1, 1.0, [])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        model = checkpoints.restore_model(1)
    assert isinstance(model["params"]["dense"]["kernel"], np.ndarray) and model["params"]["dense"]["kernel"][0, 0] == 1


@pytest.mark.parametrize("name", ["1.incomplete", "1.before.incomplete"])
def test_what_was_whole_but_for_its_name_is_used(tmp_path, name):
    """The process died within a save, between two renames."""
    write(tmp_path, [(1, 0.5)])
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "checkpoints" / name)
    assert read(tmp_path) == (1, 1.0, [])


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, [(1, 0.5)])
    write(tmp_path, [(1, 0.7)])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.record(1)["scores"]["accuracy"] == 0.7
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_another_architecture_is_named(tmp_path):
    write(tmp_path, [(1, 0.5)])
    other = dict(MODEL, params=dict(dense=dict(kernel=jnp.zeros((2, 4)), bias=jnp.zeros(4))))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError) as error:
            checkpoints.restore(1, other, TRAINING)
    assert "params/dense/bias is missing there, (4,) here" in str(error.value)
    assert "params/dense/kernel is (2, 3) there, (2, 4) here" in str(error.value)


def test_a_save_that_fails_is_told_and_the_next_is_tried(tmp_path, file_size_limit):
    lines, large = [], dict(MODEL, params=dict(a=jax.random.normal(jax.random.key(0), (10_000,))))
    with Checkpoints(tmp_path, log=lines.append) as checkpoints:
        checkpoints.save(1, MODEL, TRAINING, dict(scores=None))
        checkpoints.poll(wait=True)
        with file_size_limit(2_000):
            checkpoints.save(2, large, TRAINING, dict(scores=None))
            checkpoints.poll(wait=True)
        assert checkpoints.lost == 2 and checkpoints.steps() == [1]
        (line,) = lines
        assert line.startswith("The checkpoint of step 2 could not be written: ") and line.endswith("Training goes on.")
        checkpoints.save(3, MODEL, TRAINING, dict(scores=None))
        checkpoints.poll(wait=True)
        assert checkpoints.lost is None and checkpoints.steps() == [1, 3]
    assert not list((tmp_path / "checkpoints").glob("*incomplete*"))


def test_what_the_loop_wants_to_find_again_comes_back(tmp_path):
    record = dict(scores=dict(accuracy=1 / 3, loss=float("nan")), evaluated=True, log=dict(sums=dict(loss=0.1 + 0.2)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, MODEL, TRAINING, record)
    with Checkpoints(tmp_path) as checkpoints:
        assert json.dumps(checkpoints.record(1)) == json.dumps(record)


def test_checksums_are_written_when_the_disk_has_all_files(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    for name in ("a", "d/b"):
        (tmp_path / name).write_text(name)
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    checksums.write(tmp_path)
    assert synced == {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))} and len(synced) == 5


def test_who_reads_a_record_meanwhile_sees_the_old_one(tmp_path, monkeypatch):
    path, seen = tmp_path / "record.json", []
    records.write_json(path, "old")
    rename = Path.replace  # when all is written
    monkeypatch.setattr(Path, "replace", lambda *a: (seen.append(records.read_json(path)), rename(*a))[1])
    records.write_json(path, "new")
    assert seen == ["old"] and records.read_json(path) == "new" and [p.name for p in tmp_path.iterdir()] == [path.name]

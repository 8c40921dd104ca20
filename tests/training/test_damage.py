"""What a run goes through: full disks, damaged checkpoints, clocks, folders, foreign code. Each gets a line, nothing is lost."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.data.sources.choices import ClassFolder
from cnnjax.errors import RunError, UserError
from cnnjax.run_directory import checksums
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training import decisions, logbook, loop
from cnnjax.training.logbook import Logbook, read_entries
from tests.forked import Forked
from tests.several import ROOT, UNDRAWN, environment
from tests.training.short_runs import assert_equal_trees, saved, small_config, timeless, train

ALL_THE_TIME = dict(checkpoint__every_minutes=0.0, evaluate_every=0.3, checkpoint__keep=3)  # saves at 4, 8 and 12


def harm(workdir, step):
    path = max((workdir / "checkpoints" / str(step)).rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_to_the_same_bits(tmp_path, trained):
    whole, _ = train(tmp_path / "whole", **ALL_THE_TIME, steps=16)
    trained(tmp_path / "run", **ALL_THE_TIME)
    harm(tmp_path / "run", 12)
    again, log = train(tmp_path / "run", **ALL_THE_TIME, steps=16)
    assert "The checkpoint of step 12 is damaged: " in log and "set aside as 12.damaged" in log
    assert "Going on from step 8 of 16." in log
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "run"))
    assert timeless(read_entries(tmp_path / "whole")) == timeless(read_entries(tmp_path / "run"))
    assert again["accuracy"] == whole["accuracy"]


def test_a_damaged_list_of_starts_is_set_aside_not_lost(tmp_path, trained):
    trained(tmp_path, **ALL_THE_TIME)
    (tmp_path / "environment.json").write_text('{"starts": [{"step"')
    train(tmp_path, **ALL_THE_TIME, steps=16)
    assert (tmp_path / "environment.json.damaged").read_text() == '{"starts": [{"step"'
    assert [start["step"] for start in json.loads((tmp_path / "environment.json").read_text())["starts"]] == [12]


def test_a_start_that_cannot_go_on_leaves_the_records_as_they_were(tmp_path, trained):
    """As with a checkpoint of another architecture."""
    trained(tmp_path, **ALL_THE_TIME)
    before = [(tmp_path / name).read_bytes() for name in ("config.json", "environment.json")]
    step = tmp_path / "checkpoints" / "12"
    shutil.rmtree(step / "model")
    shutil.copytree(step / "training", step / "model")
    checksums.write(step)
    with pytest.raises(UserError, match="of another architecture"):
        train(tmp_path, **ALL_THE_TIME, steps=16, log_every=7)
    assert before == [(tmp_path / name).read_bytes() for name in ("config.json", "environment.json")]


def test_a_damaged_best_checkpoint_is_no_longer_the_one_to_beat(tmp_path, trained):
    trained(tmp_path, **ALL_THE_TIME)
    folder = tmp_path / "checkpoints" / "8"
    record = json.loads((folder / "checkpoint.json").read_text())
    record["scores"]["accuracy"] = 1.0  # better than anything that comes
    (folder / "checkpoint.json").write_text(json.dumps(record))
    checksums.write(folder)
    harm(tmp_path, 8)
    summary, log = train(tmp_path, **ALL_THE_TIME, steps=16)
    assert "The checkpoint of step 8 is damaged" in log and summary["tested_step"] != 8
    assert log.count("(best)") >= 1


def test_a_run_with_no_whole_checkpoint_is_not_begun_anew(tmp_path, trained):
    trained(tmp_path, steps=4)
    harm(tmp_path, 4)
    entries = (tmp_path / "metrics.jsonl").read_text()
    for _ in range(2):
        with pytest.raises(RunError, match="Every checkpoint in .* is damaged: put back a good one"):
            train(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == entries


def command_line(workdir, *flags, cache, limit=""):
    """A run on the command line, where `limit` may keep files from growing, much as a full disk does."""
    knobs = """
        model.channels=32,32 model.blocks=1 steps=12 evaluate_every=0.3 batch_size=64 checkpoint.every_minutes=0 data.test=
        kernels=xla
    """.split()
    command = ["train", "--config=experiments/digits.py", f"--workdir={workdir}"]
    command += [f"--config.{knob}" for knob in (*knobs, *flags)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    env = environment(1, CNNJAX_CACHE_DIR=str(cache))
    if limit:
        process = subprocess.Popen(
            ["sh", "-c", f'{limit} exec "$@"', "sh", *UNDRAWN, *command], cwd=ROOT, env=env, **options
        )
    else:
        process = Forked(command, env, **options)
    with process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_a_full_disk_while_saving_stops_nothing_but_the_end(tmp_path, own_cache):
    """The log fits under the limit, the checkpoints do not."""
    whole = command_line(tmp_path / "whole", cache=own_cache)
    assert whole.returncode == 0, whole.stderr
    shutil.copytree(own_cache / "tfds", tmp_path / "cache" / "tfds")
    full = command_line(
        tmp_path / "full", cache=tmp_path / "cache", limit="ulimit -f 24;"
    )  # blocks of 512 or 1,024 bytes
    assert full.returncode == 1 and "Traceback" not in full.stderr
    for step in (4, 8, 12):
        assert f"The checkpoint of step {step} could not be written: " in full.stdout
    assert full.stdout.count("Training goes on.") == 3
    assert "cnnjax: The last checkpoint, of step 12, is lost; there is none before it. Make room" in full.stderr
    again = command_line(tmp_path / "full", cache=tmp_path / "cache")  # there is room again
    assert again.returncode == 0, again.stderr
    assert "Error reading" not in again.stderr  # what JAX's cache of programs wrote in part is gone
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "full"))


def test_a_disk_that_is_full_for_a_while_loses_no_checkpoint_but_those(tmp_path, monkeypatch):
    refused = []
    save = Checkpoints.save

    def full_at_8(self, step, model, training, record):
        if step == 8:
            refused.append(step)
            self._failed(step, OSError(28, "No space left on device"))
        else:
            save(self, step, model, training, record)

    monkeypatch.setattr(Checkpoints, "save", full_at_8)
    _, log = train(tmp_path, **ALL_THE_TIME)
    assert refused == [8] and "The checkpoint of step 8 could not be written: [Errno 28] No space left" in log
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 12]


def entries_of(book, steps):
    for step in steps:
        book.add(dict(count=10.0, loss=step, correct=5.0, learning_rate=0.1, grad_norm=1.0, param_norm=1.0))
        book.train(step)


def a_logbook(workdir, lines, **options):
    scores = lambda sums: dict(loss=sums["loss"] / sums["count"], accuracy=sums["correct"] / sums["count"])
    return Logbook(
        workdir,
        start=0,
        total_steps=99,
        steps_per_epoch=9,
        batch_size=10,
        task=types.SimpleNamespace(scores=scores, shown=("loss", "accuracy")),
        log=lines.append,
        **options,
    )


def test_log_entries_wait_until_a_full_disk_takes_them(tmp_path, file_size_limit):
    lines = []
    with a_logbook(tmp_path, lines) as book:
        entries_of(book, [1])
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with file_size_limit(size + 20):  # the next line fits only in part
            entries_of(book, [2, 3])
            assert (tmp_path / "metrics.jsonl").stat().st_size == size
            with pytest.raises(RunError, match="lacks its last 2 entries"):
                book.require_written()
        entries_of(book, [4])
        book.require_written()
    assert [entry["step"] for entry in read_entries(tmp_path)] == [1, 2, 3, 4]
    said = [line for line in lines if "metrics.jsonl" in line]
    assert "cannot be written: File too large. Entries wait in memory; training goes on." in said[0]
    assert said[1].endswith("is written again; nothing is missing.") and len(said) == 2


def test_a_clock_that_went_backwards_gets_a_line(tmp_path, monkeypatch):
    lines = []
    with a_logbook(tmp_path, lines) as book:
        entries_of(book, [1])
        real = time.time
        monkeypatch.setattr(logbook.time, "time", lambda: real() - 7200)
        entries_of(book, [2, 3])
    assert [line for line in lines if "clock" in line] == [
        "The clock went backwards: it is 2 h 0 min before the last entry of metrics.jsonl. Only its times suffer."
    ]
    assert [entry["step"] for entry in read_entries(tmp_path)] == [1, 2, 3]


def test_events_of_a_later_start_come_later_whatever_the_clock_says(tmp_path, trained, monkeypatch):
    trained(tmp_path, steps=4)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    train(tmp_path, steps=8)
    monkeypatch.undo()
    first, second = sorted(tmp_path.glob("events.out.tfevents.*"))  # as TensorBoard reads them
    assert second.stat().st_mtime >= first.stat().st_mtime


def test_statistics_of_the_data_are_those_the_run_began_with(tmp_path, trained, monkeypatch):
    from cnnjax.inputs.images import images
    from cnnjax.run_directory import records

    trained(tmp_path, steps=4)
    known = records.read_dataset(tmp_path)
    monkeypatch.setattr(images, "statistics", None)  # not to be called
    again = cnnjax.build(small_config(), known).record
    assert again.statistics.keys() == known.statistics.keys() == {"mean", "std", "components"}
    assert all(again.statistics[n].tobytes() == known.statistics[n].tobytes() for n in known.statistics)
    monkeypatch.undo()
    other = cnnjax.build(small_config(data__train="train[:50%]"), known).record  # not the same data
    assert (other.statistics["mean"] != known.statistics["mean"]).all()


def test_a_run_on_other_data_is_not_taken_further(tmp_path, trained):
    trained(tmp_path, steps=4)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(fingerprint="of other data")))
    with pytest.raises(UserError, match="holds a run on other data: digits:1.0.0 has changed since"):
        train(tmp_path, steps=8)


def test_a_shortened_run_ends_where_it_is(tmp_path):
    train(tmp_path, steps=8)
    summary, log = train(tmp_path, steps=4)
    assert "complete (8 steps)" in log and summary["steps"] == 8
    (tmp_path / "summary.json").unlink()
    summary, _ = train(tmp_path, steps=4)
    assert summary["steps"] == 8 and not summary["stopped_early"]


def test_every_identity_knob_that_differs_is_named_and_machine_knobs_are_recorded(tmp_path, trained):
    trained(tmp_path, steps=4)
    with pytest.raises(UserError) as error:
        train(tmp_path, steps=8, seed=3, batch_size=32, optimizer__learning_rate=0.5, log_every=2)
    for difference in (
        "config.seed was 0, now 3",
        "config.batch_size was 64, now 32",
        "config.optimizer.learning_rate was 0.1, now 0.5",
    ):
        assert difference in str(error.value)
    assert "log_every" not in str(error.value) and "config.steps" not in str(error.value)
    _, log = train(tmp_path, steps=8, log_every=2, devices=4)
    assert "config.devices was 1, now 4; config.log_every was 4, now 2; config.steps was 4, now 8" in log
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 4]
    assert starts[0]["changed"] == {}
    assert starts[1]["changed"] == {"config.devices": [1, 4], "config.log_every": [4, 2], "config.steps": [4, 8]}


def test_code_that_has_changed_under_a_run_is_named(tmp_path, trained):
    trained(tmp_path, steps=4)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["channels"] = [16]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is of another architecture: .*kernel is .* there, .* here"):
        train(tmp_path, steps=8, model__channels=(16,))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv, which takes root's privileges away, is not here")
def test_a_run_directory_without_write_permission(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    command = [sys.executable, "run.py", "train", "--config=experiments/digits.py", f"--workdir={tmp_path / 'run'}"]
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run([*drop, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr == f"cnnjax: --workdir={tmp_path / 'run'} cannot be written to: Permission denied. Give another.\n"
    )


def test_no_pickle_is_read(tmp_path, trained, monkeypatch, digits_folder):
    """Neither of a run directory, nor of a checkpoint, nor of a data set: whoever wrote them could run any code."""
    from cnnjax import inference

    trained(tmp_path, steps=4)

    def refuse(*_, **__):
        raise AssertionError("a pickle is read")

    class Refusing(pickle.Unpickler):
        load = find_class = refuse

    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refusing)
    with pytest.raises(AssertionError):
        pickle.Unpickler(io.BytesIO(b"")).load()
    train(tmp_path, steps=8)
    run = inference.load(tmp_path)
    inference.predictor(run)(np.zeros((1, 8, 8, 1), np.uint8))
    folder = dict(source=ClassFolder(dir=str(digits_folder)), input__size=8, batch_size=8, steps=2)
    train(tmp_path / "folder", **folder)


def test_a_run_stopped_within_an_evaluation_makes_it_when_it_goes_on(tmp_path, monkeypatch):
    """As by a signal, at every evaluation in turn."""
    from cnnjax.errors import Interrupted

    options = dict(ALL_THE_TIME, schedule__name="plateau", schedule__patience=1, ema_decay=0.9)
    whole, _ = train(tmp_path / "whole", **options)
    evaluate, stops = loop.evaluate, []

    def stopped_once(eval_step, variables, split, layout, batch_size, check):
        if len(stops) % 2 == 0:
            stops.append(None)
            raise Interrupted("in the middle")
        stops.append(None)
        return evaluate(eval_step, variables, split, layout, batch_size, check)

    monkeypatch.setattr(loop, "evaluate", stopped_once)
    for step in (4, 8, 12):
        with pytest.raises(Interrupted):
            train(tmp_path / "run", **options)
        with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
            assert checkpoints.newest() == step and not checkpoints.record(step)["evaluated"]
    again, _ = train(tmp_path / "run", **options)
    assert again["accuracy"] == whole["accuracy"]
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "run"))
    assert timeless(read_entries(tmp_path / "whole")) == timeless(read_entries(tmp_path / "run"))


def test_a_lengthened_run_that_is_stopped_while_it_is_tested_is_tested_when_it_goes_on(tmp_path, trained, monkeypatch):
    from cnnjax.errors import Interrupted
    from cnnjax.training import scoring

    trained(tmp_path, steps=4)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="the test is not"):
        patch.setattr(scoring, "score_test", lambda *_: (_ for _ in ()).throw(Interrupted("stopped.")))
        train(tmp_path, steps=8)
    summary, _ = train(tmp_path, steps=8)
    assert summary["steps"] == 8 and summary["tested_step"] == 8


def test_an_evaluation_that_was_made_up_for_is_logged_once_however_often_the_run_dies(tmp_path, monkeypatch):
    from cnnjax.errors import Interrupted

    options = dict(evaluate_every=0.3, checkpoint__every_minutes=60.0, early_stopping=9)
    whole, _ = train(tmp_path / "whole", **options)

    def interrupted(*_, **__):
        raise Interrupted("in the middle")

    def dies(*_, **__):  # just after the log has the evaluation
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "evaluate", interrupted)
        train(tmp_path / "run", **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decisions, "after_evaluation", dies)
        train(tmp_path / "run", **options)
    train(tmp_path / "run", **options)
    assert timeless(read_entries(tmp_path / "whole")) == timeless(read_entries(tmp_path / "run"))
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "run"))


@pytest.mark.parametrize("text", ["[1, 2]", '{"accuracy": 1}', '{"acc', ""])
def test_a_damaged_summary_is_made_again(tmp_path, trained, text):
    whole = trained(tmp_path, steps=4)
    (tmp_path / "summary.json").write_text(text)
    again, _ = train(tmp_path, steps=4)
    assert again["accuracy"] == whole["accuracy"]
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"] == whole["accuracy"]


def test_checkpoints_without_a_config_are_refused(tmp_path, trained):
    trained(tmp_path, steps=4)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="holds checkpoints, but no config.json"):
        train(tmp_path, seed=7)


def test_what_is_not_finite_is_never_saved(tmp_path):
    """Also where the very step that is to be saved is the first that is not."""
    with pytest.raises(RunError, match="not finite at step"):
        train(tmp_path, optimizer__learning_rate=1e30, model__normalization="none", **ALL_THE_TIME)
    if (tmp_path / "checkpoints").exists():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path)))

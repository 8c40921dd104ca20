"""The command line, driven as a user drives it."""

import io
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import cli
from tests.undrawn import no_pictures

ROOT = Path(__file__).parent.parent
DIGITS = "--config=experiments/digits.py"
QUICK = ("--config.devices=1", "--config.kernels=xla")  # compiled soonest


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def run(capsys):
    """Runs a command line in this process -> (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.main(["run.py", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_a_newcomer_is_told_what_to_type(run, arguments):
    code, out, err = run(*arguments)
    assert code == 0 and err == ""
    for verb in cli.VERBS:
        assert f"python run.py {verb}" in out
    assert "experiments/digits.py" in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_lists_every_knob(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    for text in (
        "--config.optimizer.learning_rate=0.1",
        "at least 0",
        "--config.model.channels=32,64,128",
        "(one of 'sgd'",
    ):
        assert text in out


def test_help_names_all_models_that_share_options(run):
    assert "Of the models vgg11, vgg13, vgg16, vgg19, vgg11_bn," in run("train", "--help")[1]


def test_who_reads_may_leave(monkeypatch):
    """As `head` does: the pipe is closed, and there is nobody to tell."""

    def write(_):
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(write=write, flush=lambda: None))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert cli.main(["run.py", "--help"]) == 1 and sys.stderr.closed


def test_help_does_not_wait_for_jax():
    code = "import sys; from cnnjax import cli; cli.main(['run.py']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_the_shell_sees_the_exit_code():
    done = subprocess.run([sys.executable, "run.py", "tarin"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == "cnnjax: There is no verb 'tarin'. Did you mean train? The verbs are train, evaluate, predict, inspect, benchmark, sweep, prepare, config.\n"
    )


MISUSE = [
    (["train"], "Say which experiment"),
    (["--config=x.py", "train"], "The verb comes first"),
    (["train", "--config=experiments/digit.py"], "There is no experiment file experiments/digit.py. Did you mean experiments/digits.py"),
    (["train", "--config=nowhere/x.py"], "There is no experiment file nowhere/x.py"),
    (["train", "--config=README.md"], "is no experiment: give a Python file"),
    (["train", DIGITS, "--workdri=x"], "There is no flag --workdri. Did you mean workdir"),
    (["train", DIGITS, "--config.optimizer.learning_rte=1"], "Did you mean config.optimizer.learning_rate"),
    (["train", DIGITS, "--config.learning_rate=1"], "Did you mean config.optimizer.learning_rate"),
    (["train", DIGITS, "--config.optimizer.learning_rate=-1"], "config.optimizer.learning_rate must be at least 0, not -1.0"),
    (["train", DIGITS, "--config.optimizer.learning_rate=nan"], "not nan"),
    (["train", DIGITS, "--config.optimizer.learning_rate=fast"], "config.optimizer.learning_rate must be a number, not 'fast'"),
    (["train", DIGITS, "--config.batch_size=0"], "config.batch_size must be at least 1, not 0"),
    (["train", DIGITS, "--config.batch_size=12.5"], "config.batch_size must be a whole number, not '12.5'"),
    (["train", DIGITS, "--config.remat=maybe"], "config.remat must be true or false, not 'maybe'"),
    (["train", DIGITS, "--config.model.channels=8,x"], "config.model.channels must be whole numbers"),
    (["train", DIGITS, "--config.model.channels=8,0"], "config.model.channels must be at least 1"),
    (["train", DIGITS, "--config.optimizer.name=sdg"], "config.optimizer.name must be one of 'sgd', 'adamw'"),
    (["train", DIGITS, "--config.model=resnet50x"], "There is no model 'resnet50x'"),
    (["train", "--config=experiments/digits.py:lenet"], "There is no model 'lenet'. Did you mean lenet5"),
    (["train", DIGITS, "--config.batch_size=60"], "config.batch_size=60 is not divisible by the 8 devices"),
    (["train", DIGITS, "--config.source=tfds", "--config.source.set=fashion_mist"], "Did you mean fashion_mnist"),
    (["train", DIGITS, "--config.source=tfds", "--config.source.set=mnist", "--config.source.dir=/nowhere"], "python run.py prepare"),
    (["train", DIGITS, "--config.data.train=trian"], "trian"),
    (["train", DIGITS, "--config.data.train=train[:x%]"], "train[:x%]"),
    (["train", DIGITS, "--config.source=class_folder"], "Give it as --config.source.dir=DIR"),
    (["train", DIGITS, "--config.source=tfds"], "Give it as --config.source.set=NAME"),
    (["train", DIGITS, "--config.source=mnist"], "--config.source=tfds --config.source.set=NAME"),
    (["train", DIGITS, "--config.source=digit_scenes"], "config.source=digit_scenes gives each example a mask, and this task learns a label"),
    (["train", DIGITS, "--config.source.dir=x"], "There is no --config.source.dir: digits has no field dir. Of the sources class_folder, mask_folder, tfds have."),
    (["train", DIGITS, "--config.input=sounds"], "There is no input 'sounds'"),
    (["train", DIGITS, "--config.data.name=mnist"], "--config.data.name is --config.source=NAME since version 0.2"),
    (["train", DIGITS, "--config.data.data_dir=x"], "--config.data.data_dir is --config.source.dir since version 0.2, and digits has no field dir"),
    (["train", DIGITS, "--config.augmentation.flip=true"], "--config.augmentation.flip is --config.input.augmentation.flip since version 0.2."),
    (["train", DIGITS, "--config.source=class_folder", "--config.source.dir=/nowhere"], "/nowhere"),
    (["train", DIGITS, "--config.init_from=/nowhere"], "config.init_from=/nowhere is no run directory"),
    (["train", DIGITS, "--config.schedule.warmup=99"], "warmup"),
    (["train", DIGITS, "--config.schedule.name=step"], "boundaries"),
    (["train", DIGITS, "--config.optimizer.frozen=stage7"], "'stage7' matches no parameter"),
    (["train", DIGITS, "--config.input.augmentation.random_crop=9"], "config.input.augmentation.random_crop"),
    (["train", DIGITS, "--config.devices=9"], "config.devices is 9, but there are 8"),
    (["train", DIGITS, "stray"], "Not understood: 'stray'"),
    (["train", DIGITS, "--config.steps=99999999999"], "config.steps must be"),
    (["train", DIGITS, "--config.epochs=1e12"], "is too long"),
    (["train", DIGITS, "--config.model.channels=12", "--config.model.normalization=group"], "multiples of 8"),
    (["train", DIGITS, "--config.model.kernel_size=100000"], "config.model.kernel_size must be"),
    (["evaluate"], "Say which run: --workdir=DIR"),
    (["evaluate", "--workdir=experiments"], "holds no run"),
    (["evaluate", "--workdir=/nowhere"], "/nowhere does not exist"),
    (["predict", "--workdir=experiments", "x.png"], "holds no run"),
    (["predict", "x.png"], "Say which run"),
    (["prepare"], "Say which experiment"),
    (["prepare", DIGITS, "--config.source=class_folder"], "needs no preparation"),
    (["prepare", DIGITS, "--config.source=tfds", "--config.source.set=fashion_mist"], "Did you mean fashion_mnist"),
    (["config"], "Say which"),
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, message", MISUSE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_misuse_gets_one_clear_line(run, tmp_path, arguments, message):
    if arguments[0] == "train":
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    code, out, err = run(*arguments)
    assert code == 2 and message in err and err.startswith("cnnjax: ")
    assert len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("from cnnjax.config import Config\n", "has no function get_config()"),
        ("def get_config(:\n", "line 1: SyntaxError"),
        ("def get_config():\n    return 3\n", "must return a cnnjax.config.Config, not int"),
        (
            "import cnnjax\ndef get_config():\n    c = cnnjax.Config()\n    c.optimizr = 1\n    return c\n",
            "line 4: AttributeError",
        ),
        (
            "import cnnjax\ndef get_config():\n    return cnnjax.Config()\n",
            "config.model must hold the options of a model",
        ),
        (
            "import cnnjax\ndef get_config():\n    return cnnjax.Config(model=cnnjax.model('cnn'), epochs='ten')\n",
            "config.epochs must be a number, not 'ten'",
        ),
        (
            "import cnnjax\ndef get_config():\n    return cnnjax.Config(model=cnnjax.model('cnn'), data=None)\n",
            "config.data must be a Data, not None",
        ),
        ("raise SystemExit\n", "line 1: SystemExit"),
    ],
)
def test_a_faulty_experiment_file_is_named_with_its_line(run, tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    code, _, err = run("config", f"--config={path}")
    assert code == 2 and message in err and "Traceback" not in err
    if "optimizr" in text:
        assert "Did you mean optimizer" in err


def test_config_prints_what_would_run(run, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import cnnjax\ndef get_config(name='cnn'):\n    c = cnnjax.Config(model=cnnjax.model(name))\n    c.epochs = 3\n    return c\n"
    )
    code, out, _ = run(
        "config", f"--config={path}:lenet5", "--config.schedule.boundaries=3,5.5", "--config.remat", "--config.optimizer.nesterov=false",
        "--config.model.activation", "relu",
    )  # fmt: skip
    values = json.loads(out)
    assert code == 0 and values["epochs"] == 3.0 and values["schedule"]["boundaries"] == [3.0, 5.5]
    assert values["remat"] is True and values["optimizer"]["nesterov"] is False
    assert values["model"] == dict(name="lenet5", activation="relu", pooling="average")
    code, out, _ = run("config", "--config=experiments/digits.py:lenet5", "--noconfig.optimizer.nesterov")
    assert json.loads(out)["model"]["name"] == "lenet5" and json.loads(out)["optimizer"]["nesterov"] is False


@pytest.mark.parametrize(
    "text, value", [("true", True), ("yes", True), ("1", True), ("false", False), ("no", False), ("0", False)]
)
def test_true_and_false_may_be_written_in_three_ways(run, text, value):
    code, out, _ = run("config", DIGITS, f"--config.remat={text}")
    assert code == 0 and json.loads(out)["remat"] is value


def test_train_says_what_it_does_and_where(run, tmp_path):
    flags = ["--config.model.channels=8", "--config.model.blocks=1", "--config.steps=4", *QUICK]
    with no_pictures():
        code, out, err = run("train", DIGITS, *flags, f"--workdir={tmp_path / 'run'}")
    assert code == 0
    for text in (
        "digits",
        "classes, 8x8x1",
        "parameters",
        "4 steps",
        "validation:",
        "Test, with",
        "95 % interval",
        str(tmp_path),
    ):
        assert text in out
    code, again, _ = run("train", DIGITS, *flags, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "complete" in again
    code, _, err = run("train", DIGITS, *flags, "--config.seed=5", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "config.seed was 0, now 5" in err


def test_evaluate_repeats_the_test_score(run, trained_run):
    summary = json.loads((trained_run / "summary.json").read_text())
    for devices in (1, 8):
        code, out, _ = run("evaluate", f"--workdir={trained_run}", "--format=json", f"--config.devices={devices}")
        assert code == 0 and json.loads(out)["accuracy"] == summary["accuracy"]
    code, out, _ = run("evaluate", f"--workdir={trained_run}", "--split=train[:100]", "--config.eval_batch_size=8")
    assert code == 0 and "100 examples" in out
    code, _, err = run("evaluate", f"--workdir={trained_run}", "--split=tset")
    assert code == 2 and "Did you mean test" in err
    code, _, err = run("evaluate", f"--workdir={trained_run}", "--config.batch_size=3")
    assert code == 2 and "belongs to the trained run" in err


def test_evaluate_on_other_data(run, trained_run, digits_folder, tmp_path):
    folder = ["--config.source=class_folder", f"--config.source.dir={digits_folder}"]
    code, _, err = run("evaluate", f"--workdir={trained_run}", *folder)
    assert code == 2 and "other classes" in err
    for digit in range(10):
        for split in ("train", "test"):
            (tmp_path / split / str(digit)).mkdir(parents=True)
            source = digits_folder / split / f"digit {digit % 3}"
            for picture in source.iterdir():
                shutil.copy(picture, tmp_path / split / str(digit) / picture.name)
    code, out, _ = run(
        "evaluate", f"--workdir={trained_run}", folder[0], f"--config.source.dir={tmp_path}", "--format=json"
    )
    assert code == 0 and json.loads(out)["examples"] == 100


def test_predict_names_the_classes(run, trained_run, digits_folder):
    pictures = digits_folder / "test" / "digit 0"
    code, out, err = run("predict", pictures, f"--workdir={trained_run}", "--format=json", "--top=10")
    rows = json.loads(out)
    assert code == 0 and err == "" and len(rows) == 10
    assert all(sum(c["probability"] for c in row["classes"]) == pytest.approx(1, abs=1e-4) for row in rows)
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert sum(row["classes"][0]["name"] == "0" for row in rows) >= 5
    code, out, _ = run("predict", pictures / "0.png", pictures / "1.png", f"--workdir={trained_run}")
    assert code == 0 and len(out.splitlines()) == 2 and "%" in out and str(pictures / "0.png") in out


def test_predict_does_the_good_pictures_and_names_the_bad(run, trained_run, digits_folder, tmp_path):
    good = tmp_path / "good.png"
    shutil.copy(digits_folder / "test" / "digit 1" / "0.png", good)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    Image.new("L", (1, 1)).save(tmp_path / "tiny.png")
    large = np.zeros((200, 300, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100])
    code, out, err = run("predict", tmp_path, f"--workdir={trained_run}")
    assert code == 1
    assert len(out.splitlines()) == 2 and str(good) in out
    for name in ("empty", "text", "tiny", "cut"):
        (line,) = [line for line in err.splitlines() if f"{name}.png" in line]
        assert line.startswith("cnnjax: ") and line.endswith(".")


def test_predict_on_a_missing_file(run, trained_run):
    code, _, err = run("predict", "missing.png", f"--workdir={trained_run}")
    assert code == 2 and "missing.png" in err and len(err.splitlines()) == 1
    code, _, err = run("predict", f"--workdir={trained_run}")
    assert code == 2 and "Say which images" in err
    for top in ("none", "²", "0"):
        code, _, err = run("predict", "x.png", f"--top={top}", f"--workdir={trained_run}")
        assert code == 2 and "--top must be a whole number" in err


def test_train_on_ones_own_pictures(run, digits_folder, tmp_path):
    folder = ["--config.source=class_folder", f"--config.source.dir={digits_folder}", "--config.batch_size=8"]
    small = ["--config.model.channels=8", "--config.steps=3", *QUICK]
    with no_pictures():
        code, out, _ = run("train", DIGITS, *folder, *small, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "3 classes" in out and "digit 2" in out


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "tiny"])
def test_training_refuses_bad_pictures_unless_told_to_skip_them(run, digits_folder, tmp_path, damage):
    pictures = tmp_path / "pictures"
    shutil.copytree(digits_folder, pictures)
    bad = pictures / "train" / "digit 1" / "3.png"
    whole = bad.read_bytes()
    bad.write_bytes(dict(truncated=whole[: len(whole) // 2], empty=b"", text=b"hello", tiny=b"")[damage])
    if damage == "tiny":
        Image.new("L", (1, 1)).save(bad)
    arguments = ["train", DIGITS, "--config.source=class_folder", f"--config.source.dir={pictures}", "--config.batch_size=8",
                 "--config.model.channels=8", "--config.steps=1", *QUICK, f"--workdir={tmp_path / 'run'}"]  # fmt: skip
    code, _, err = run(*arguments)
    assert code == 2 and "3.png" in err and "--config.source.skip_bad_files=true" in err and len(err.splitlines()) <= 2
    with no_pictures():
        code, out, _ = run(*arguments, "--config.source.skip_bad_files=true")
    assert code == 0 and "3.png" in out


def test_prepare_says_where_the_set_lies(run):
    code, out, _ = run("prepare", DIGITS)
    assert code == 0 and "digits" in out


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "train", cli.VERBS["train"]._replace(run=interrupted))
    code, _, err = run("train")
    assert code == 130 and "goes on from the newest checkpoint" in err


def test_a_run_without_a_checkpoint_cannot_predict(run, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    code, _, err = run("predict", "experiments/pictures", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "has no checkpoint yet" in err


def test_damaged_records_are_named(run, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    whole = (tmp_path / "run" / "dataset.json").read_text()
    damages = [("dataset.json", text) for text in ('{"name": ', "[1]", whole.replace("[\n    8,\n    8,", "[\n    8,"))]
    damages += [
        ("config.json", text) for text in ('{"name": ', "[1]", "3", '{"model": 3}', '{"model": {"name": ["cnn"]}}')
    ]
    for name, text in damages:
        assert text != whole
        (tmp_path / "run" / name).write_text(text)
        code, _, err = run("predict", "experiments/pictures", f"--workdir={tmp_path / 'run'}")
        assert code == 2 and f"{name} is damaged" in err, text
        assert len(err.splitlines()) == 1
        (tmp_path / "run" / "dataset.json").write_text(whole)


def test_a_damaged_checkpoint_is_named(run, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    damaged = list((tmp_path / "run" / "checkpoints").glob("*/checkpoint.json"))
    for scores in damaged:
        scores.write_text('{"accu')
    code, out, err = run("predict", "experiments/pictures", f"--workdir={tmp_path / 'run'}")
    *each, last = err.splitlines()
    assert code == 2 and out == "" and len(each) == len(damaged)
    assert all("is damaged: checkpoint.json was altered or cut off" in line for line in each)
    assert "Every checkpoint in" in last and "is damaged: put back a good one" in last


def test_evaluate_uses_the_parameters_that_were_tested(run, tmp_path):
    """A rate far too high, so that the last parameters are worse than the best."""
    flags = ["--config.model.channels=8", "--config.model.blocks=1", "--config.schedule.name=constant", "--config.ema_decay=0",
             "--config.optimizer.learning_rate=1", "--config.evaluate_every=0.5", "--config.steps=41",
             "--config.checkpoint.best_metric=loss", *QUICK]  # fmt: skip
    with no_pictures():
        assert run("train", DIGITS, *flags, f"--workdir={tmp_path}")[0] == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {}
    for which in ("tested", "last", "best"):
        _, out, _ = run("evaluate", f"--workdir={tmp_path}", "--format=json", f"--checkpoint={which}")
        found[which] = json.loads(out)
    assert summary["tested_step"] == 41 == found["tested"]["step"] and found["best"]["step"] == 21
    assert found["tested"]["accuracy"] == summary["accuracy"]


def test_evaluate_knows_the_splits_of_the_run(run, trained_run):
    sizes = json.loads((trained_run / "dataset.json").read_text())["split_sizes"]
    for split in ("train", "validation", "test"):
        _, out, _ = run("evaluate", f"--workdir={trained_run}", f"--split={split}", "--format=json")
        assert json.loads(out)["examples"] == sizes[split]


@pytest.mark.parametrize("flag", ["--config.input.normalization=none", "--config.input.size=4", DIGITS])
def test_evaluate_refuses_what_it_would_ignore(run, trained_run, flag):
    code, _, err = run("evaluate", f"--workdir={trained_run}", flag)
    assert code == 2 and ("cannot be changed now" in err or "has its own" in err)


def test_folders_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", DIGITS, f"--workdir={tmp_path / 'file' / 'run'}")
    assert code == 2 and len(err.splitlines()) == 1 and "file" in err


def test_class_names_of_any_kind_reach_the_summary(run, digits_folder, tmp_path):
    for name, digit in (("$x_{$", 0), ("$5", 1), ("猫 犬", 2)):
        for split in ("train", "test"):
            shutil.copytree(digits_folder / split / f"digit {digit}", tmp_path / "pictures" / split / name)
    code, out, err = run(
        "train", DIGITS, "--config.source=class_folder", f"--config.source.dir={tmp_path / 'pictures'}", "--config.batch_size=8",
        "--config.model.channels=8", "--config.steps=1", *QUICK, f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0 and "Glyph" not in err and (tmp_path / "run" / "confusion_matrix.png").exists()
    names = [row["name"] for row in json.loads((tmp_path / "run" / "summary.json").read_text())["classes"]]
    assert names == ["$5", "$x_{$", "猫 犬"]


def test_the_same_picture_twice_is_answered_twice(run, trained_run, digits_folder):
    picture = digits_folder / "test" / "digit 0" / "0.png"
    _, out, _ = run("predict", picture, picture, f"--workdir={trained_run}")
    assert len(out.splitlines()) == 2

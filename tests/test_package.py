"""cnnjax as a package that is installed: its command, its starter experiment, its data."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from cnnjax import cli, launch
from cnnjax.data.digits import embedded
from cnnjax.errors import UserError
from tests.undrawn import no_pictures

ROOT = Path(__file__).parents[1]
SHORT = ["--config.steps=4", "--config.model.channels=4", "--config.devices=1", "--config.kernels=xla"]


def test_the_starter_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with no_pictures():
        assert cli.main(["/usr/bin/cnnjax", "train", "--config=digits", *SHORT]) == 0
    assert "899 examples" in capsys.readouterr().out and (tmp_path / "runs" / "digits" / "summary.json").is_file()
    monkeypatch.chdir(ROOT)
    assert launch.load_experiment("digits") == launch.load_experiment("experiments/digits.py")
    assert launch.load_experiment("digits:lenet5")[0].model.name == "lenet5"


def test_a_folder_of_the_same_name_does_not_hide_the_starter_and_a_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert launch.load_experiment("digits")[0].source.name == "digits"
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").write_text("")
    with pytest.raises(UserError, match="--config=digits is no experiment: give a Python file"):
        launch.load_experiment("digits")


def test_the_starter_is_what_a_misspelt_name_is_answered_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no experiment file digit. Did you mean digits?"):
        launch.load_experiment("digit")


@pytest.mark.parametrize("typed, shown", [
    ("run.py", "python run.py train"),
    ("/opt/venv/bin/cnnjax", "cnnjax train"),
    ("/opt/venv/lib/python3.12/site-packages/cnnjax/__main__.py", "python -m cnnjax train"),
])  # fmt: skip
def test_messages_name_the_command_that_was_typed(typed, shown, capsys):
    assert cli.main([typed, "evaluate"]) == 2
    assert f"the folder that `{shown}` made" in capsys.readouterr().err
    assert cli.main([typed]) == 0
    assert f"  {shown} --config=" in (out := capsys.readouterr().out) and ("python run.py" in out) == (
        typed == "run.py"
    )


def test_python_runs_the_package():
    done = subprocess.run([sys.executable, "-m", "cnnjax", "tarin"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("cnnjax: There is no verb 'tarin'. Did you mean train?")


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = embedded()
    theirs = load_digits()
    np.testing.assert_array_equal(images, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


@pytest.mark.slow  # a minute of pip
def test_the_wheel_trains_in_an_environment_of_its_own(tmp_path):
    """With an experiment file outside the checkout, and nothing of the checkout but the wheel."""
    pip = lambda python, *arguments: subprocess.run(
        [python, "-m", "pip", "--quiet", *arguments], check=True, cwd=tmp_path
    )
    shutil.copytree(ROOT / "cnnjax", tmp_path / "source" / "cnnjax")  # building leaves a folder beside it
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(tmp_path / "source"))
    (wheel,) = tmp_path.glob("cnnjax-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip(python, "install", "--constraint", str(ROOT / "requirements.txt"), str(wheel))
    (tmp_path / "mine.py").write_text(
        "import cnnjax\n\n\ndef get_config():\n    config = cnnjax.new_config(model='cnn')\n    config.steps = 4\n    return config\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_", "XLA_"))}
    env |= dict(CNNJAX_CACHE_DIR=str(tmp_path / "cache"), JAX_PLATFORMS="cpu")
    command = lambda *words: subprocess.run(
        [tmp_path / "env" / "bin" / "cnnjax", *words], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    for config in ("mine.py", "digits"):
        done = command("train", f"--config={config}", f"--workdir=runs/{config}", *SHORT)
        assert done.returncode == 0, done.stderr
    done = command("evaluate", "--workdir=runs/digits", "--format=json")
    assert json.loads(done.stdout)["examples"] == 899
    assert command("evaluate").stderr.count("`cnnjax train`") == 1
    found = subprocess.run([python, "-c", "import experiments"], cwd=tmp_path, env=env, capture_output=True)
    assert b"No module named 'experiments'" in found.stderr

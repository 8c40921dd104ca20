"""Every command of the README is run, the longer ones for a few steps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnjax.data import digit_scenes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SHORT = {"experiments/digits.py": 8, "experiments/fashion_mnist.py": 1, "experiments/folder.py": 2}
SHORT |= {"experiments/folder_unet.py": 2, "experiments/digit_scenes_unet.py": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_folder):
    """A folder that looks like the repository, so that runs/ does not land in the real one."""
    path = tmp_path_factory.mktemp("clone")
    for name in ("run.py", "cnnjax", "Makefile", "pyproject.toml", "requirements.txt"):
        (path / name).symlink_to(ROOT / name)
    activation = Path("experiments") / "ablations" / "digits_activation.py"
    shutil.copytree(ROOT / "experiments", path / "experiments", ignore=shutil.ignore_patterns("results", "__pycache__"))
    shorter = (ROOT / activation).read_text().replace("(0, 1, 2)", "(0,)").replace('"steps": 200', '"steps": 8')
    assert "seeds=(0,)," in shorter and '"steps": 8,' in shorter
    (path / activation).write_text(shorter)
    (path / "PICTURES").symlink_to(digits_folder)
    for i in range(6):
        scene = digit_scenes.scene("train", i)
        for kind, pixels in dict(images=scene["image"][..., 0], masks=scene["instances"]).items():
            (path / "CELLS" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / "CELLS" / kind / f"{i}.png")
    return path


def test_there_are_commands():
    assert len(COMMANDS) > 10 and COMMANDS[:2] == ["make train", "make test"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_does_what_it_says(folder, command):
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # as if not run by make
    done = subprocess.run(
        [*command.split(), "--dry-run"], cwd=folder, env=outside, capture_output=True, text=True, check=True
    )
    planned = done.stdout
    if command == "make train":
        last = [".venv/bin/python run.py train --config=experiments/digits.py --workdir=runs/digits"]
    else:  # the suite on 8 virtual devices, the kernels on one
        last = [
            ".venv/bin/python -m pytest --ignore=tests/kernels",
            "CNNJAX_TEST_DEVICES=1 .venv/bin/python -m pytest --dist=worksteal tests/kernels",
        ]
    assert planned.splitlines()[-len(last) :] == last
    assert "pip install" in planned and "requirements.txt" in planned


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make")])
def test_commands_run(folder, command):
    if "fashion_mnist" in command and "CNNJAX_DATA_DIR" not in os.environ:
        pytest.skip("CNNJAX_DATA_DIR does not say where a prepared Fashion-MNIST lies")
    python, *arguments = command.split()
    assert python == "python"
    config = next((a for a in arguments if a.startswith("--config=")), "")
    if " train " in command:
        arguments += [
            f"--config.steps={next(n for name, n in SHORT.items() if name in config)}",
            "--config.schedule.warmup=0",
        ]
        arguments += ["--config.model.depth=1"] if "unet" in config else []
    environment = os.environ | dict(XLA_FLAGS="", JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and done.stdout


def test_the_python_example_runs(tmp_path, monkeypatch):
    inspection, training = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(training, scope)
    assert scope["probabilities"].shape == (3, 10)
    exec(inspection, scope)
    assert scope["height"].size > 1 and len(scope["height"].low) == 62


def test_the_table_of_alexnet_is_what_the_program_prints(capsys):
    from cnnjax import cli

    assert cli.main(["run.py", "inspect", "--model=alexnet", "--format=markdown"]) == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "networks.md").read_text()


def test_every_network_stands_in_the_list():
    from cnnjax import models

    rows = re.findall(r"^\| (\w+) \| [\dx]+ \| ([\d,]+) \|", (ROOT / "docs" / "networks.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(models.MODELS)
    assert f"{len(models.MODELS)} names" in README


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target

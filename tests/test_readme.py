"""Every command of the README is run, the longer ones for a few steps: most in this process, three as a shell starts them."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnjax import benchmark, cli
from cnnjax.data import digit_scenes
from tests.several import environment
from tests.undrawn import no_pictures

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SHORT = {"experiments/digits.py": 8, "experiments/fashion_mnist.py": 1, "experiments/folder.py": 2}
SHORT |= {"experiments/folder_unet.py": 2, "experiments/digit_scenes_unet.py": 2}
ONE_DEVICE = ["--config.devices=1", "--config.kernels=xla"]  # compiled soonest
# As a shell starts them; a process of its own takes seconds to load what the others share.
AS_PROCESSES = (
    "python run.py",
    "python run.py train --config=experiments/digits.py --workdir=runs/digits",
    "python run.py sweep --config=experiments/ablations/digits_activation.py --workdir=runs/activation --parallel=2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_folder):
    """A folder that looks like the repository, so that runs/ does not land in the real one."""
    path = tmp_path_factory.mktemp("clone")
    for name in ("run.py", "cnnjax", "Makefile", "pyproject.toml", "requirements.txt"):
        (path / name).symlink_to(ROOT / name)
    activation = Path("experiments") / "ablations" / "digits_activation.py"
    shutil.copytree(ROOT / "experiments", path / "experiments", ignore=shutil.ignore_patterns("results", "__pycache__"))
    shorter = (ROOT / activation).read_text().replace("(0, 1, 2)", "(0,)").replace('"steps": 200', '"steps": 8')
    shorter = shorter.replace('"tanh", "sigmoid"', '"tanh"')
    assert "seeds=(0,)," in shorter and '"steps": 8,' in shorter and '"relu", "tanh")' in shorter
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
    else:
        last = [".venv/bin/python -m pytest"]
    assert planned.splitlines()[-len(last) :] == last
    assert "pip install" in planned and "requirements.txt" in planned


def workdir_of(command: str) -> str | None:
    return next((word.removeprefix("--workdir=") for word in command.split() if word.startswith("--workdir=")), None)


def made_by(command: str) -> list[str]:
    """The commands above one that make the run directories that it reads."""
    read = {word.partition("=")[2] for word in command.split() if word.startswith("--config.init_from=")}
    if " train " not in command:
        read.add(workdir_of(command))
    makes = lambda one: workdir_of(one) in read and (" train " in one or "--parallel" in one)
    return [one for one in COMMANDS[: COMMANDS.index(command)] if makes(one)]


@pytest.fixture(scope="module")
def run_once(folder):
    """Runs a command, and those that it needs, each at most once: tests may come in any order, on any worker."""
    done = {}

    def run(command: str) -> tuple[int, str, str]:
        if command not in done:
            for needed in made_by(command):
                run(needed)
            done[command] = (as_process if command in AS_PROCESSES else in_this_process)(folder, arguments_of(command))
        return done[command]

    return run


def arguments_of(command: str) -> list[str]:
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "run.py")
    if "train" in arguments:
        steps = next(n for name, n in SHORT.items() if name in command)
        arguments += [f"--config.steps={steps}", "--config.schedule.warmup=0", *ONE_DEVICE]
        arguments += ["--config.model.depth=1"] if "unet" in command else []
        arguments += (
            ["--config.data.train=train[:64]", "--config.data.test=test[:8]"] if "digit_scenes" in command else []
        )
    return arguments


def as_process(folder: Path, arguments: list[str]) -> tuple[int, str, str]:
    command = [sys.executable, "run.py", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(1), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def in_this_process(folder: Path, arguments: list[str]) -> tuple[int, str, str]:
    """Without pictures at the end, which the training that is a process of its own draws; measured for a moment."""
    out, err = io.StringIO(), io.StringIO()
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(folder), said[0], said[1], no_pictures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "PRODUCT_SIDE", 256)
        code = cli.main(["run.py", *arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make")])
def test_commands_run(run_once, command):
    if "fashion_mnist" in command and "CNNJAX_DATA_DIR" not in os.environ:
        pytest.skip("CNNJAX_DATA_DIR does not say where a prepared Fashion-MNIST lies")
    code, out, err = run_once(command)
    assert code == 0, err
    assert "Traceback" not in err and out


def test_three_commands_are_processes_of_their_own():
    assert set(AS_PROCESSES) < set(COMMANDS)


def test_the_python_example_runs(tmp_path, monkeypatch, one_device):
    inspection, training = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope = {}
    with no_pictures():
        exec(training, scope)
    assert scope["probabilities"].shape == (3, 10)
    exec(inspection, scope)
    assert scope["height"].size > 1 and len(scope["height"].low) == 62


def test_the_table_of_alexnet_is_what_the_program_prints(capsys):
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

"""Run directories that version 0.1 wrote say the same as then: evaluated, predicted with, taken further, and of a sweep.

`python -m tests.test_runs_of_0_1` prints what they say now. `expected.json` was written so by 0.1 itself, and stays.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from cnnjax import cli, migration
from cnnjax.training.logbook import read_entries
from tests.training.short_runs import timeless
from tests.undrawn import no_pictures

HERE = Path(__file__).with_name("runs_of_0_1")
PAIRS = [f"--config.source.dir={HERE}/pairs/images", f"--config.source.masks={HERE}/pairs/masks"]
DATA = dict(classification=[], segmentation=PAIRS)  # what a run needs to be told on another machine
IMAGES = dict(classification=HERE / "digits", segmentation=HERE / "pairs" / "images")


def run(*arguments) -> None:
    with no_pictures():
        assert cli.main(["run.py", *map(str, arguments)]) == 0


def command_of(kind: str) -> list[str]:
    """The flags of the command in README.md that trained a run, without those that name its folder and data."""
    text = (HERE / "README.md").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("python run.py train") and f"/{kind} " in line)
    places = ("--workdir=", "--config.data.data_dir=", "--config.data.masks=")
    return [_of_now(flag) for flag in shlex.split(line)[3:] if not flag.startswith(places)]


def _of_now(flag: str) -> str:
    """A flag of 0.1, as it is typed since."""
    name, equals, value = flag.removeprefix("--config.").partition("=")
    new = migration.new_name(name)
    return f"--config.{new}{equals}{value}" if new else flag


def said(kind: str, folder: Path, capture) -> dict:
    """All that is said of a copy of a run, which is then taken to step 16."""
    workdir = folder / kind
    shutil.copytree(HERE / kind, workdir)
    found = {}
    for split in ("validation", "test"):
        capture()
        run("evaluate", f"--workdir={workdir}", f"--split={split}", "--format=json", *DATA[kind])
        found[split] = json.loads(capture())
    output = [f"--output={folder / 'output'}"] if kind == "segmentation" else []
    run("predict", IMAGES[kind], f"--workdir={workdir}", "--format=json", *output)
    found["predict"] = [row | dict(file=Path(row["file"]).name) for row in json.loads(capture())]
    run("train", *command_of(kind), *DATA[kind], "--config.steps=16", f"--workdir={workdir}")
    found["log"] = timeless(read_entries(workdir))
    summary = json.loads((workdir / "summary.json").read_text())
    return found | dict(summary={name: value for name, value in summary.items() if name != "seconds"})


def table(folder: Path, capture) -> list[str]:
    """Of the sweep, without the speeds."""
    shutil.copytree(HERE / "sweep", folder / "sweep")
    (folder / "sweep.py").write_text(
        (HERE / "sweep.py").read_text().replace('"label_smoothing"', '"task.label_smoothing"')
    )
    run("sweep", f"--config={folder / 'sweep.py'}", f"--workdir={folder / 'sweep'}", "--table")
    return [line.rsplit("|", 2)[0] for line in capture().splitlines() if line.startswith("|")]


def assert_close(now, then, at="") -> None:
    if isinstance(then, dict):
        assert list(now) == list(then), at
        for name in then:
            assert_close(now[name], then[name], f"{at}/{name}")
    elif isinstance(then, list):
        assert len(now) == len(then), at
        for number, pair in enumerate(zip(now, then)):
            assert_close(*pair, f"{at}/{number}")
    else:
        assert now == (pytest.approx(then, rel=1e-4, abs=1e-5) if isinstance(then, float) else then), at


@pytest.fixture
def printed(capsys):
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_run_says_what_it_said(kind, tmp_path, printed):
    assert_close(said(kind, tmp_path, printed), json.loads((HERE / "expected.json").read_text())[kind])


def test_a_sweep_says_what_it_said(tmp_path, printed):
    assert table(tmp_path, printed) == json.loads((HERE / "expected.json").read_text())["sweep"]


if __name__ == "__main__":
    import contextlib
    import io
    import tempfile

    with contextlib.redirect_stdout(io.StringIO()) as out, tempfile.TemporaryDirectory() as name:
        taken = lambda: (out.getvalue(), out.seek(0), out.truncate())[0]
        found = {kind: said(kind, Path(name), taken) for kind in DATA}
        taken()
        found["sweep"] = table(Path(name), taken)
    print(json.dumps(found, indent=1))

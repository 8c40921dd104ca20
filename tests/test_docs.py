"""Pages whose code runs as it stands."""

import re
from pathlib import Path

import pytest

from cnnjax import cli
from tests.undrawn import no_pictures

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def stripes(tmp_path):
    """The blocks of the page on options of one's own, as the one file that they are together."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own_options.md").read_text(), re.DOTALL)
    (tmp_path / "stripes.py").write_text("\n".join(blocks))
    return tmp_path / "stripes.py", blocks


def test_the_page_on_ones_own_options_trains_and_evaluates(stripes, tmp_path, capsys):
    file, _ = stripes
    train = [
        "train",
        f"--config={file}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.width=4",
        "--config.devices=1",
    ]
    with no_pictures():
        assert cli.main(["run.py", *train, "--config.kernels=xla"]) == 0
    said = capsys.readouterr().out
    assert "model   small" in said and "lying" in said and "64 examples" in said
    evaluate = ["run.py", "evaluate", f"--workdir={tmp_path / 'run'}"]
    assert cli.main([*evaluate, f"--config={tmp_path / 'run' / 'code' / 'stripes.py'}"]) == 0
    capsys.readouterr()
    assert cli.main(evaluate) == 2 and "does not run unasked" in capsys.readouterr().err


def test_each_of_the_four_takes_under_forty_lines(stripes):
    assert len(stripes[1]) == 5
    assert all(len(block.splitlines()) < 40 for block in stripes[1])


def test_every_link_leads_somewhere():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
            assert (DOCS / target).exists(), f"{page.name}: {target}"


def test_the_drawing_of_the_architecture_is_that_of_the_imports():
    from experiments.measurements import architecture

    assert architecture.drawing() in (DOCS / "architecture.md").read_text()

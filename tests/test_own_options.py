"""A network, a task, a kind of input and a source that an experiment file defines, through the whole program."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnnjax
from cnnjax import cli, experiment, launch, serialization
from cnnjax.errors import UserError
from cnnjax.sweeps import ablation, status
from cnnjax.training.logbook import read_entries
from tests.training.short_runs import assert_equal_trees, saved, timeless
from tests.undrawn import no_pictures

HERE = Path(__file__).with_name("own_options")


@pytest.fixture
def mine(tmp_path):
    """A copy of the experiment that a test may change. It leaves a mark wherever it is executed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("experiment.py", "waves.py"):
        shutil.copy(HERE / name, folder)
    file = folder / "experiment.py"
    mark = f"\n\nfrom pathlib import Path\n\nPath({str(tmp_path / 'executed')!r}).touch()\n"
    file.write_text(file.read_text() + mark)
    return file


def run(*arguments) -> int:
    with no_pictures():
        return cli.main(["run.py", *map(str, arguments)])


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_of_one_axis_and_of_three_go_through_the_whole_program(axes, mine, tmp_path, capsys):
    train = ("train", f"--config={mine}:{axes}", "--config.steps=24")
    assert run(*train, f"--workdir={tmp_path / 'whole'}") == 0
    assert "classes, 16 by 1" in capsys.readouterr().out or axes == 3
    assert run(*train[:2], "--config.steps=12", f"--workdir={tmp_path / 'run'}") == 0
    assert run(*train, f"--workdir={tmp_path / 'run'}") == 0
    assert "Going on from step 12 of 24." in capsys.readouterr().out
    assert_equal_trees(saved(tmp_path / "whole"), saved(tmp_path / "run"))
    steps = lambda workdir: [e for e in timeless(read_entries(workdir)) if e["split"] == "train" and e["step"] > 12]
    assert steps(tmp_path / "whole") == steps(tmp_path / "run")

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    evaluate = ("evaluate", f"--workdir={tmp_path / 'run'}", "--format=json")
    for file in (mine, tmp_path / "run" / "code" / "experiment.py"):
        assert run(*evaluate, f"--config={file}") == 0
        found = json.loads(capsys.readouterr().out)
        assert {n: found[n] for n in ("error", "worst", "examples")} == {
            n: summary[n] for n in ("error", "worst", "examples")
        }

    shape = (16, 1) if axes == 1 else (8, 4, 4, 1)
    np.save(tmp_path / "wave.npy", np.full(shape, 200, np.uint8))
    np.save(tmp_path / "odd.npy", np.zeros((2, 2), np.uint8))
    files = (tmp_path / "wave.npy", tmp_path / "odd.npy")
    assert run("predict", *files, f"--workdir={tmp_path / 'run'}", f"--config={mine}", "--format=json") == 1
    said = capsys.readouterr()
    ((row,), err) = json.loads(said.out), said.err
    assert "odd.npy is (2, 2), not" in err and err.count("\n") == 1
    loaded = cnnjax.load(tmp_path / "run", options=launch.classes_of(str(mine)))
    expected = cnnjax.predictor(loaded)(np.full((1, *shape), 200, np.uint8))
    assert row["frequency"] == pytest.approx(float(expected[0]), abs=1e-5)

    assert run("inspect", f"--config={mine}:{axes}", "--format=json") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["input_shape"] == [1, *shape] and len(table["layers"][0]["field_of_view"]) == axes
    assert table["layers"][1]["field_of_view"][0]["size"] == 5  # two convolutions of three


def test_another_process_unpickles_what_the_file_defines(mine):
    """As those that read data do; they are not told of the file but by the environment."""
    config, _ = launch.load_experiment(str(mine))
    read = config.source.open(config.input, "frequency").split("train").read
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)([0])['signal'].shape)"
    done = subprocess.run(
        [sys.executable, "-c", "import cnnjax; " + code], input=pickle.dumps(read), capture_output=True
    )
    assert done.stdout == b"(1, 16, 1)\n", done.stderr


@pytest.mark.slow  # a process that reads takes seconds to start
def test_a_worker_process_reads_ones_own_source(mine, tmp_path):
    train = ("train", f"--config={mine}", "--config.steps=12")
    assert run(*train, f"--workdir={tmp_path / 'held'}") == 0
    stream = ("--config.data.placement=stream", "--config.data.workers=1")
    assert run(*train, *stream, f"--workdir={tmp_path / 'streamed'}") == 0
    assert_equal_trees(saved(tmp_path / "held"), saved(tmp_path / "streamed"))


def test_the_lowest_error_is_the_best(mine):
    config, _ = launch.load_experiment(str(mine))
    experiment.check(config)
    assert config.checkpoint.best_metric == "error" and not experiment.higher_is_better(config)


@pytest.fixture
def trained(mine, tmp_path):
    workdir = tmp_path / "run"
    assert run("train", f"--config={mine}", "--config.steps=4", f"--workdir={workdir}") == 0
    (tmp_path / "executed").unlink()
    return workdir


def test_code_of_a_run_directory_does_not_run_unasked(trained, tmp_path, capsys):
    for verb in (["evaluate"], ["predict", "experiments/pictures"], ["config"]):
        capsys.readouterr()
        assert run(*verb, f"--workdir={trained}") == 2
        err = capsys.readouterr().err
        assert f"name it by --config={trained}/code/experiment.py" in err and err.count("\n") == 1
    with pytest.raises(UserError, match=r"does not run unasked: .*in Python: options=\[Tiny\]"):
        cnnjax.load(trained)
    assert not (tmp_path / "executed").exists()


def test_a_class_that_has_changed_is_refused_and_what_else_has_is_noted(trained, mine, capsys):
    text = mine.read_text()
    again = ("train", f"--config={mine}", "--config.steps=8", f"--workdir={trained}")
    mine.write_text(text.replace("error**2 / 2", "error**2"))  # of the task that the options of this run build
    assert run(*again) == 0
    assert "experiment.py was '" in (said := capsys.readouterr().out) and "Changed since the last start" in said
    mine.write_text(text.replace('knob(8, "channels", low=1)', 'knob(8, "channels", low=2)'))
    assert run(*again) == 2
    assert (
        "config.model: class Tiny in " in (err := capsys.readouterr().err)
        and "is not what the run was trained with" in err
    )
    assert run("evaluate", f"--workdir={trained}", f"--config={mine}") == 2
    assert f"A copy of that is {trained}/code/experiment.py" in capsys.readouterr().err


def test_processes_whose_files_differ_do_not_train_together(mine):
    config, _ = launch.load_experiment(str(mine))
    main = json.loads(json.dumps(serialization.to_json(config)))
    classes = list(serialization.foreign_classes(config).values())
    assert serialization.differences(main, serialization.to_json(config), "identity", classes) == []
    mine.write_text(mine.read_text().replace('knob(8, "channels", low=1)', 'knob(8, "channels", low=2)'))
    other, _ = launch.load_experiment(str(mine))
    with pytest.raises(UserError, match="class Tiny in .* is not what the run was trained with"):
        serialization.differences(
            main, serialization.to_json(other), "identity", serialization.foreign_classes(other).values()
        )


SWEEP = """
from cnnjax.sweeps.ablation import Sweep, values

def get_sweep():
    return Sweep(
        base={base!r}, hypothesis="Wider is better.", seeds=(0,), common={{"steps": 4}},
        factors=dict(width=values("model.width", 4, 8)), score="error",
    )
"""


def swept(mine, tmp_path):
    (tmp_path / "sweep.py").write_text(SWEEP.format(base=str(mine)))
    return tmp_path / "sweep.py"


def test_a_sweep_knows_the_fields_and_the_scores_of_ones_own_options(mine, tmp_path):
    chosen = ablation.load(str(swept(mine, tmp_path)))
    trials = ablation.trials(chosen, tmp_path / "out")
    assert [trial.config.model.width for trial in trials] == [4, 8]
    folder = trials[0].folder
    assert run(*("train", *trials[0].arguments), f"--workdir={folder}") == 0
    status.require_same(trials, tmp_path / "out")
    assert status.status_of(trials[0], chosen.score).state == status.DONE
    entries = [dict(step=n, epoch=n, split="validation", error=e) for n, e in ((1, 0.5), (2, 0.3), (3, 0.4))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert status.progress_of(trials[0], "error")[2] == 0.3


@pytest.mark.slow  # real processes; what they are given stands above
def test_a_sweep_runs_ones_own_options(mine, tmp_path, capsys):
    assert run("sweep", f"--config={swept(mine, tmp_path)}", f"--workdir={tmp_path / 'out'}", "--parallel=2") == 0
    assert "| width=8 | 1 of 1 |" in capsys.readouterr().out


@pytest.mark.parametrize("choice, made, said", [
    ("model", 3, "config.model must hold the options of a model"),
    ("task", "segmentation", "config.task must hold the options of a task"),
    ("source", None, None),
])  # fmt: skip
def test_what_is_no_options_is_refused(choice, made, said):
    config = serialization.new_config()
    setattr(config, choice, made)
    if said is None:  # what is left out is the usual one
        experiment.check(config)
        return
    with pytest.raises(UserError, match=said):
        experiment.check(config)


def test_options_that_lack_something_are_refused(mine):
    config, _ = launch.load_experiment(str(mine))
    config.task = config.model
    with pytest.raises(UserError, match="config.task: Tiny lacks target, scores, check: see cnnjax/tasks/__init__.py"):
        experiment.check(config)


def test_a_file_may_be_executed_twice_and_its_module_is_found_by_name(mine, tmp_path):
    first, _ = launch.load_experiment(str(mine))
    second, _ = launch.load_experiment(str(mine))
    assert type(first.model) is not type(second.model) and type(first.model).__module__ == type(second.model).__module__
    assert type(first.model).__module__ in os.environ["CNNJAX_EXPERIMENT_FILES"]


OWN = """
import dataclasses

from cnnjax import serialization
from cnnjax.knobs import knob
from cnnjax.tasks.classification import options, task
{imports}

@dataclasses.dataclass(slots=True)
class Mine(options.Options):
    {field}

    def build(self):
        return Task(self)


class Task(task.Task):
    def predictions(self, logits):
        return logits


def get_config():
    config = serialization.new_config()
    config.task = {made}
    config.steps, config.model.channels, config.model.blocks = 2, (4,), 1
    config.devices, config.kernels = 1, "xla"
    return config
"""


def own_task(folder, name="own.py", imports="", field="pass", made="Mine()"):
    path = folder / name
    path.write_text(OWN.format(imports=imports, field=field, made=made))
    return path


def test_a_class_that_keeps_the_name_of_another_is_not_taken_for_it(tmp_path, capsys):
    file = own_task(tmp_path)
    plain = own_task(tmp_path, "plain.py", made="options.Options()")
    assert run("train", f"--config={plain}", f"--workdir={tmp_path / 'run'}") == 0
    assert run("train", f"--config={file}", "--config.steps=4", f"--workdir={tmp_path / 'run'}") == 2
    assert "config.task was 'classification', now 'classification (class Mine)'" in capsys.readouterr().err
    line = launch.parse([f"--config={file}", "--config.task=classification"], ())
    assert serialization.foreign_classes(line.config) == {}


def test_classes_are_found_through_a_module_and_behind_another_of_their_name(tmp_path, capsys):
    own_task(tmp_path, "lib.py", field="gamma: float = knob(2.0, 'exponent')")
    through = own_task(
        tmp_path, "through.py", imports="import lib\nfrom lib import get_config as other", made="lib.Mine()"
    )
    assert run("train", f"--config={through}", f"--workdir={tmp_path / 'run'}") == 0
    for file in (through, tmp_path / "run" / "code" / "through.py"):
        assert run("evaluate", f"--workdir={tmp_path / 'run'}", f"--config={file}") == 0
    capsys.readouterr()
    assert run("evaluate", f"--workdir={tmp_path / 'run'}") == 2
    assert f"--config={tmp_path / 'run' / 'code' / 'through.py'}" in capsys.readouterr().err


def test_a_changed_sibling_is_noted_by_every_verb_and_its_old_text_is_kept(trained, mine, capsys):
    sibling = mine.with_name("waves.py")
    old = sibling.read_text()
    sibling.write_text(old.replace("127.5", "127.0"))
    assert run("evaluate", f"--workdir={trained}", f"--config={mine}") == 0
    assert "changed since the run was trained: waves.py" in capsys.readouterr().err
    assert run("train", f"--config={mine}", "--config.steps=8", f"--workdir={trained}") == 0
    assert "waves.py was '" in capsys.readouterr().out
    assert (trained / "code" / "until_step_4" / "waves.py").read_text() == old
    assert (trained / "code" / "waves.py").read_text() == sibling.read_text()


def test_the_copy_in_a_run_directory_has_its_own_siblings(trained, mine):
    mine.with_name("waves.py").write_text("raise RuntimeError('not this one')\n")
    assert run("evaluate", f"--workdir={trained}", f"--config={trained / 'code' / 'experiment.py'}") == 0


def test_a_built_in_network_starts_from_a_run_with_a_task_of_its_own(tmp_path, capsys):
    file = own_task(tmp_path)
    plain = own_task(tmp_path, "plain.py", made="options.Options()")
    assert run("train", f"--config={file}", f"--workdir={tmp_path / 'run'}") == 0
    tune = ("train", f"--config={plain}", f"--config.init_from={tmp_path / 'run'}", f"--workdir={tmp_path / 'tuned'}")
    assert run(*tune) == 0
    assert f"Parameters from {tmp_path / 'run'}, step 2" in capsys.readouterr().out


@pytest.mark.parametrize("more, said", [
    (dict(field="width: int"), "Mine.width has no default"),
    (dict(field="width: int = 3"), "Mine.width is no knob"),
    (dict(field="widths: list[int] = knob((), 'widths')"), "Mine.widths is of type list"),
    (dict(field="width: int | None = knob(None, 'width')"), "Mine.width is of type"),
    (dict(field="width: 'Nothing' = knob(0, 'width')"), "the annotations of Mine cannot be read"),
    (dict(field="def check(self, config): raise KeyError('x')"), "Mine.check failed: KeyError"),
    (dict(made="dataclasses.make_dataclass('Made', [], bases=(options.Options,))()"), "define it in a file"),
    (dict(made="(lambda: [c for c in [type('L', (), {})]][0])()()"), "must hold the options of a task"),
])  # fmt: skip
def test_a_class_that_cannot_be_recorded_is_refused_before_anything_is_read(more, said, tmp_path, capsys):
    file = own_task(tmp_path, **({"field": "def check(self, config): pass"} | more))
    if "width: int" == more.get("field"):
        file.write_text(
            file.read_text()
            .replace("class Mine(options.Options):", "class Mine(Base):")
            .replace(
                "@dataclasses",
                "@dataclasses.dataclass\nclass Base:\n    width: int\n    target = 'label'\n    scores = dict(accuracy='higher')\n    def check(self, config): pass\n    def build(self): pass\n\n@dataclasses",
                1,
            )
            .replace("    width: int\n\n    def build", "    pass\n\n    def build")
            .replace("Mine()", "Mine(3)")
        )
    assert run("train", f"--config={file}", f"--workdir={tmp_path / 'run'}") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") <= 2, err


def test_damaged_records_of_classes_are_named(trained, mine, capsys):
    path = trained / "config.json"
    values = json.loads(path.read_text())
    for damaged in (3, None, dict(name="Tiny"), "Tiny"):
        path.write_text(json.dumps(values | dict(model=values["model"] | {"class": damaged})))
        assert run("evaluate", f"--workdir={trained}", f"--config={mine}") == 2
        assert "config.json is damaged: its model does not say of which class it is." in capsys.readouterr().err

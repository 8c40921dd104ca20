"""Factors and seeds become trials; what does not do is refused before anything starts."""

import sys
from pathlib import Path

import pytest

from cnnjax import cli, launch, usage
from cnnjax.errors import UserError
from cnnjax.sweeps import ablation, local
from cnnjax.sweeps.ablation import Sweep, values

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "experiments/ablations").glob("*.py")
FACTORS = dict(
    activation=values("model.activation", "relu", "tanh", "sigmoid"),
    depth={"one": {"model.blocks": 1}, "two": {"model.blocks": 2}},
)


def a_sweep(**changes):
    kwargs = dict(
        base="experiments/digits.py", hypothesis="Of two things one is better.", factors=FACTORS, seeds=(0, 7)
    )
    return Sweep(**(kwargs | changes))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_one_factor_at_a_time():
    assert [v.name for v in ablation.variants(a_sweep())] == [
        "base",
        "activation=tanh",
        "activation=sigmoid",
        "depth=two",
    ]


def test_a_grid_has_every_combination():
    lines = ablation.variants(a_sweep(grid=True))
    assert len(lines) == 6
    assert [v.name for v in lines if v.is_base] == ["activation=relu, depth=one"]


def test_a_trial_is_a_checked_configuration_of_its_own(tmp_path):
    trials = ablation.trials(a_sweep(common={"model.channels": (4, 8), "model.dropout": 0.25}), tmp_path)
    assert [(t.variant.name, t.seed) for t in trials[:2]] == [("base", 0), ("activation=tanh", 0)]
    assert len({t.folder for t in trials}) == len(trials) == 8
    last = trials[-1]
    assert last.folder == tmp_path / "depth=two" / "seed7"
    assert (last.config.seed, last.config.model.blocks, last.config.model.activation) == (7, 2, "relu")
    assert (last.config.model.channels, last.config.model.dropout) == ((4, 8), 0.25)


def test_a_trial_is_trained_by_the_command_of_its_configuration(tmp_path):
    for trial in ablation.trials(a_sweep(common={"model.channels": (4, 8), "model.dropout": 0.25}), tmp_path):
        python, *module, verb, workdir_last = (command := local.train_command(trial))[:4] + command[-1:]
        assert (python, module, verb) == (sys.executable, ["-m", "cnnjax"], "train") and "--workdir=" in workdir_last
        flags = command[4:]
        line = launch.parse(flags, usage.FLAGS["train"])
        assert line.config == trial.config and line.flags["workdir"] == str(trial.folder)


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            dict(factors=dict(width=values("model.chanels", (8,), (16,)))),
            "no flag --config.model.chanels. Did you mean",
        ),
        (dict(factors=dict(depth=values("model.blocks", 1, "many"))), "config.model.blocks must be a whole number"),
        (dict(factors=dict(depth=values("model.blocks", 1, 0))), "config.model.blocks must be at least 1"),
        (dict(factors=dict(a=values("model.blocks", 1, 2), b=values("model.blocks", 2, 3))), "'a' and 'b' both set"),
        (dict(common={"model.blocks": 1}), "'common' and 'depth' both set config.model.blocks"),
        (dict(factors=dict(depth=values("model.blocks", 1))), "has 1 level"),
        (dict(factors=dict(depth=[1, 2])), "must be values(KNOB, ...)"),
        (dict(factors={}), "has no factors"),
        (dict(factors=dict(s=values("seed", 1, 2))), "say seeds="),
        (dict(seeds=()), "needs seeds"),
        (dict(seeds=(1, 1)), "none stands twice"),
        (dict(seeds=(0.5,)), "whole numbers"),
        (dict(factors=dict(x={"a b": {"model.blocks": 1}, "a/b": {"model.blocks": 2}, "a_b": {}})), "share a folder"),
    ],
)
def test_what_does_not_do_is_refused(changes, says, tmp_path):
    with pytest.raises(UserError, match=".*") as refused:
        ablation.trials(a_sweep(**changes), tmp_path)
    assert says in str(refused.value) and len(str(refused.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "text, flags, says",
    [
        ("def get_config(): pass", (), "has no function get_sweep()"),
        ("def get_sweep(): return 3", (), "must return a cnnjax.sweeps.ablation.Sweep, not 3"),
        ("def get_sweep(): return 1 / 0", (), "line 1: ZeroDivisionError"),
        ("def get_sweep(): return 3", ("--config.seed=3",), "A sweep's knobs stand in its file"),
        ("def get_sweep(): return 3", ("--parallel=some",), "--parallel must be a whole number"),
        ("def get_sweep(): return 3", ("--launcher=condor",), "launcher"),
        ("def get_sweep(): return 3", ("more",), "Not understood: 'more'"),
    ],
)
def test_the_command_line_says_in_a_line_what_is_wrong(text, flags, says, tmp_path, capsys):
    file = tmp_path / "sweep.py"
    file.write_text(text)
    assert cli.main(["run.py", "sweep", f"--config={file}", f"--workdir={tmp_path / 'out'}", *flags]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_sweep_needs_a_file(capsys):
    assert cli.main(["run.py", "sweep"]) == 2
    assert "Say which sweep" in capsys.readouterr().err
    assert cli.main(["run.py", "sweep", "--config=experiments/ablations/shft.py"]) == 2
    assert "Did you mean experiments/ablations/shift.py?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in FILES))
def test_the_sweeps_here_are_whole(name, tmp_path, request):
    sweep = ablation.load(f"experiments/ablations/{name}.py")
    assert len(sweep.seeds) >= 3 and sweep.hypothesis
    assert len(ablation.trials(sweep, tmp_path)) == len(sweep.seeds) * len(ablation.variants(sweep))
    lines = (request.config.rootpath / f"experiments/ablations/{name}.py").read_text().splitlines()
    assert len(lines) < 50

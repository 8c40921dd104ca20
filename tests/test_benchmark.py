"""`python run.py benchmark` as a person types it."""

import json

import pytest

from cnnjax import benchmark as measuring
from cnnjax import cli

SHORT = ("--model=lenet5", "--input=12,12,1", "--batch=8", "--classes=3", "--seconds=1", "--config.devices=1")


@pytest.fixture
def benchmark(capsys, monkeypatch):
    """Runs the verb, which measures for a moment only: of a second a test would learn no more."""
    times = measuring.times
    monkeypatch.setattr(measuring, "times", lambda run, seconds: times(run, min(seconds, 0.05)))
    monkeypatch.setattr(measuring, "PRODUCT_SIDE", 256)

    def run(*flags):
        code = cli.main(["run.py", "benchmark", *flags])
        return code, *capsys.readouterr()

    return run


def test_what_it_says(benchmark):
    code, out, err = benchmark(*SHORT, "--kernels=xla")
    assert code == 0 and err == ""
    assert [line.split()[0] for line in out.splitlines()] == "lenet5 kernels compile step forward rate memory".split()


def test_json_adds_up(benchmark):
    code, out, _ = benchmark(*SHORT, "--kernels=portable", "--precision=bfloat16", "--format=json")
    found = json.loads(out)
    assert code == 0 and (found["kernels"], found["precision"], found["devices"]) == ("portable", "bfloat16", 1)
    step = found["step_seconds"]
    assert 0 < step["low"] <= step["median"] <= step["high"] and found["steps_timed"] >= 5
    assert found["images_per_second"] == pytest.approx(8 / step["median"])
    # LeNet-5 on 32x32: C1 28^2 x 25 x 6, C3 10^2 x 150 x 16, C5 400 x 120, F6 120 x 84, output 84 x 3
    macs = 28**2 * 25 * 6 + 100 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 3
    assert found["flops_per_second"] == pytest.approx(6 * macs * 8 / step["median"])
    assert found["mfu"] == pytest.approx(found["flops_per_second"] / found["ceiling_flops_per_second"])
    assert found["peak_bytes"] > 1e7 and found["compile_seconds"] > 0


def test_pmap(benchmark):
    code, out, err = benchmark(*SHORT[:-1], "--config.compile_with=pmap", "--config.devices=2")
    assert code == 0 and "forward" in out, err


@pytest.mark.slow
def test_what_does_not_fit_into_memory(benchmark):
    code, out, err = benchmark(*SHORT[:3], "--classes=2000000000", "--seconds=1", "--config.devices=1")
    assert code == 1 and "too little memory" in err and err.count("\n") <= 2, err


def test_an_experiment_for_pixels(benchmark):
    flags = ("--config=experiments/digit_scenes_unet.py", "--config.model.base=2", "--config.model.depth=1")
    code, out, err = benchmark(*flags, "--batch=2", "--seconds=1", "--config.devices=1")
    assert code == 0 and out.startswith("unet"), err


def test_a_network_for_pixels_and_a_trace(benchmark, tmp_path):
    flags = ("--model=unet16", "--input=16,16,1", "--batch=2", "--classes=2", "--seconds=1", "--config.devices=1")
    small = ("--config.model.base=2", "--config.model.depth=1")
    code, out, err = benchmark(*flags, *small, f"--profile={tmp_path / 'trace'}")
    assert code == 0, err
    assert out.startswith("unet16") and "step " in out
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_an_experiments_loader(benchmark):
    flags = ("--config=experiments/digits.py", "--config.model.channels=4,8", "--config.model.blocks=1", "--loader")
    code, out, _ = benchmark(*flags, "--batch=16", "--seconds=1", "--config.devices=1")
    assert code == 0 and out.splitlines()[-1].startswith("loader   a step takes ")


@pytest.mark.parametrize(
    "flags, says",
    [
        ((), "Say which network"),
        (("--model=lenett5",), "Did you mean lenet5?"),
        (("--model=lenet5", "--batch=0"), "--batch must be a whole number"),
        (("--model=lenet5", "--batch=9"), "is not divisible by the 8 devices"),
        (("--model=lenet5", "--seconds=soon"), "--seconds must be"),
        (("--model=lenet5", "--kernels=fast"), "--kernels=fast"),
        (("--model=lenet5", "--kernels=onednn"), "config.kernels=onednn cannot work: .*8.*--config.devices=1"),
        (("--model=lenet5", "--kernels=portable"), "config.kernels=portable cannot work: .*8"),
        (("--model=lenet5", "--precision=float16"), "--precision"),
        (("--model=lenet5", "--loader"), "--loader times an experiment's own data"),
        (("--model=vgg11", "--input=8,8,3", "--batch=8"), "8x8|too small"),
        ((*SHORT, "--profile=/proc/nope"), "--profile=/proc/nope cannot be made or written to"),
        ((*SHORT[:-3], "--classes=99999999999"), "--classes: 99999999999 is too large"),
        (("--config=experiments/digits.py", "--model=lenet5"), "--model is for a network without an experiment"),
    ],
)
def test_misuse_gets_a_line(benchmark, flags, says):
    import re

    code, out, err = benchmark(*flags)
    assert code == 2 and err.count("\n") <= 2, err
    assert re.search(says, err), err

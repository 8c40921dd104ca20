"""`python run.py inspect` as a person types it."""

import csv
import io
import json

import pytest
from PIL import Image

from cnnjax import cli


@pytest.fixture
def inspect(capsys):
    def run(*flags):
        code = cli.main(["run.py", "inspect", *flags])
        return code, *capsys.readouterr()

    return run


def test_a_network_by_name(inspect):
    code, out, err = inspect("--model=alexnet")
    assert code == 0 and err == ""
    (conv2,) = [line for line in out.splitlines() if line.startswith("conv2")]
    words = ["27(S) x 27(S) x 256(C) x 1(B)", "kernel 5x5x48x256, bias 256", "307,456", "223,948,800", " 51 ", " 8 "]
    assert all(word in conv2 for word in words)
    assert "60,965,224 parameters" in out and "No issue was found." in out


def test_input_classes_knobs_and_form(inspect):
    flags = ["--model=alexnet", "--input=99,131,1", "--classes=7", "--config.model.width=0.5", "--format=json"]
    value = json.loads(inspect(*flags)[1])
    assert value["input_shape"] == [1, 99, 131, 1]
    assert value["layers"][0]["learnables"] == dict(kernel=[11, 11, 1, 48], bias=[48])
    assert value["layers"][-1]["shape"] == [1, 7]
    # conv1: (99 - 11) / 4 + 1 = 23 and (131 - 11) / 4 + 1 = 31, both without a rest
    assert value["layers"][0]["shape"] == [1, 23, 31, 48]
    rows = list(csv.DictReader(io.StringIO(inspect(*flags[:-1], "--format=csv")[1])))
    assert rows[0]["field of view"] == "11" and len(rows) == len(value["layers"])


def test_an_experiment_is_inspected_with_its_data(inspect):
    code, out, _ = inspect("--config=experiments/digits.py")
    assert code == 0 and "147,130 parameters" in out and "8(S) x 8(S) x 1(C) x 1(B)" in out


def test_what_is_typed_goes_before_the_data(inspect):
    flags = "--config=experiments/digits.py", "--format=json"
    value = json.loads(inspect(*flags, "--input=12,16,3")[1])
    assert value["input_shape"] == [1, 12, 16, 3] and value["layers"][-1]["shape"] == [1, 10]
    value = json.loads(inspect(*flags, "--classes=7")[1])
    assert value["input_shape"] == [1, 8, 8, 1] and value["layers"][-1]["shape"] == [1, 7]


def test_dropped_pixels_are_an_issue(inspect):
    out = inspect("--model=alexnet", "--input=229,227,3")[1]
    assert "conv1 drops the last 2 of 229 input positions along axis 1: its windows do not reach them." in out


# EfficientNet-B0 with one block a stage: kernels 3 3 3 5 3 5 5 3 after strides 1 2 2 4 8 16 16 32.
CUT = 1 + 2 * (1 + 2 + 2 + 8 + 32) + 4 * (4 + 16 + 16)


def test_gates_can_be_cut(inspect):
    def last(*flags):
        small = ("--model=efficientnet_b0", "--config.model.depth=0.1", "--input=96,96,3", "--format=json")
        layers = json.loads(inspect(*small, *flags)[1])["layers"]
        return [layer["field_of_view"][0]["size"] for layer in layers if len(layer["shape"]) == 4][-1]

    assert last() == 96 and last("--gates=cut") == CUT


def test_a_picture_is_drawn(inspect, tmp_path):
    path = tmp_path / "view.png"
    code, out, err = inspect(
        "--model=lenet5", "--classes=10", "--layer=c3", f"--picture={path}", "--image=experiments/pictures/digit_3.png"
    )
    assert code == 0 and "61,706 parameters" in out
    assert err.startswith("c3 sees 14x14 pixels, effectively ")
    with Image.open(path) as picture:
        assert min(picture.size) > 300


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--model=alexnet --input=40,50,3", "At pool5 1x1 positions arrive, less than its window of 3x3"),
        ("--model=alexnet --input=40,50,3", "It takes at least 67x67."),
        ("--model=alexnett", "Did you mean alexnet?"),
        ("", "Say which network: --model=NAME"),
        (
            "--model=alexnet --input=227,3",
            "--input=227,3 must be height,width,channels for alexnet: 227,227,3 as published",
        ),
        ("--model=vgg11 --input=8,64,64,3", "must be height,width,channels"),
        ("--model=alexnet --input=a,b,c", "--input must be height,width,channels: --input=224,224,3, not 'a'"),
        ("--model=alexnet --input=0,9,3", "not '0'"),
        ("--model=alexnet --classes=many", "--classes must be a whole number, not 'many'"),
        ("--model=alexnet --format=xml", "--format=xml"),
        ("--model=lenet5 --input=64,64,1", "at most 32x32"),
        ("--model=alexnet --picture=nowhere/x.png", "there is no folder nowhere"),
        ("--model=alexnet --picture=x.txt", "must end in .png"),
        ("--model=alexnet --picture=x.png --layer=conv9", "there is no such layer. Did you mean conv5?"),
        ("--model=alexnet --picture=x.png --layer=fc6", "--layer=fc6 has no positions."),
        ("--model=alexnet --picture=x.png --image=README.md", "is no picture that can be read"),
        ("--model=alexnet --picture=x.png --image=no.png", "--image=no.png cannot be read"),
        ("--config=experiments/digits.py --model=lenet5", "say --config.model=NAME"),
        ("--model=alexnet more", "Not understood: 'more'"),
    ],
)
def test_what_cannot_be_done_is_said_in_two_lines(inspect, flags, words):
    code, out, err = inspect(*flags.split())
    assert code == 2 and words in err and len(err.strip().splitlines()) <= 2 and "Traceback" not in err and out == ""


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--model=resnet20_cifar", "--config.model.stem_width=64"], "64 arrive where 16 are wanted"),
        (["--model=resnet50", "--config.model.widening=0.001"], "config.model.widening=0.001 leaves no channel"),
        (["--model=resnet18", "--config.model.groups=4"], "config.model.groups is for bottlenecks"),
        (["--model=lenet5", "--input=²,28,1"], "--input must be"),
        (["--model=cnn", "--config.model.channels=" + ",".join("1" * 14), "--input=28,28,1"], "8192x8192"),
        (["--model=lenet5", "--layer=c1"], "--layer is for a picture"),
        (["--model=lenet5", "--image=a.png"], "--image is for a picture"),
    ],
)
def test_what_a_reader_broke_gets_a_line(inspect, flags, says):
    code, out, err = inspect(*flags)
    assert code == 2 and out == "" and says in err and err.count("\n") <= 2 and "None" not in err


def test_gates_are_reported_with_the_field_of_view_without_them(inspect):
    code, out, _ = inspect("--model=efficientnet_b0", "--config.model.depth=0.1")
    assert code == 0 and CUT > 224
    assert f"gates (squeeze-and-excite) see the whole picture. Without them the field of view is {CUT}x{CUT}" in out

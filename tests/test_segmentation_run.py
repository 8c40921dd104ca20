"""Segmentation from the command line: train, evaluate, predict, and what is refused."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import cli, inference, tasks
from cnnjax.data import digit_scenes
from cnnjax.tasks.segmentation import predict as segmentation_files
from tests.undrawn import no_pictures

QUICK = ("--config.devices=1", "--config.kernels=xla")  # compiled soonest
SMALL = (
    "--config=experiments/digit_scenes_unet.py",
    "--config.model.base=4",
    "--config.model.depth=2",
    "--config.batch_size=8",
    "--config.data.train=train[:64]",
    "--config.data.test=test[:12]",
    *QUICK,
)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def run(*arguments) -> int:
    return cli.main(["run.py", *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("segmentation") / "run"
    assert run("train", *SMALL, "--config.steps=24", f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def pictures(tmp_path):
    """Scenes of several sizes as files, and one that cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = digit_scenes.scene("test", 3)["image"][..., 0]
    for name, pixels in dict(a=image, b=np.tile(image, (3, 2))[:150, :101], c=image[:5, :2]).items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    return folder


def test_what_a_run_leaves_behind(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["examples"] == 12 and summary["pixels"] == 12 * 64 * 64 and len(summary["classes"]) == 11
    assert set(summary["objects"]) >= {"f1", "mean_average_precision", "rand"}
    for name in ("learning_curves", "confusion_matrix", "worst_pictures"):
        assert (trained / f"{name}.png").is_file()
    entries = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    validation = [entry for entry in entries if entry["split"] == "validation"]
    assert validation and all(0 <= entry["mean_iou"] <= 1 for entry in validation)
    losses = [entry["loss"] for entry in entries if entry["split"] == "train"]
    assert losses[-1] < losses[0]


def test_evaluate_repeats_the_test_score(trained, capsys):
    assert run("evaluate", f"--workdir={trained}", "--format=json") == 0
    found, summary = json.loads(capsys.readouterr().out), json.loads((trained / "summary.json").read_text())
    assert found["mean_iou"] == pytest.approx(summary["mean_iou"], rel=1e-6) and found["objects"] == summary["objects"]


def test_predict_writes_masks_overlays_and_areas(trained, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("predict", str(pictures), f"--workdir={trained}", f"--output={out}", "--format=json") == 1
    captured = capsys.readouterr()
    assert "broken.png is truncated" in captured.err and captured.err.count("\n") == 1
    rows = json.loads(captured.out)
    assert [os.path.basename(row["file"]) for row in rows] == ["a.png", "b.png", "c.png"]
    assert json.loads((out / "areas.json").read_text()) == rows
    loaded = inference.load(trained)
    segment = inference.predictor(loaded)
    for row in rows:
        name = os.path.basename(row["file"])[:-4]
        image = pixels(pictures / f"{name}.png")[..., None]
        mask = pixels(out / f"{name}_mask.png")
        wanted = np.concatenate([probabilities for _, probabilities in segment(image)]).argmax(-1)
        np.testing.assert_array_equal(mask, wanted)
        assert [c["pixels"] for c in row["classes"]] == list(np.bincount(mask.ravel(), minlength=11))
        assert sum(c["share"] for c in row["classes"]) == pytest.approx(1, abs=1e-4)
        objects = pixels(out / f"{name}_objects.png")
        assert objects.max() == row["objects"] and ((objects > 0) <= (mask > 0)).all()
        assert pixels(out / f"{name}_overlay.png").shape == (*image.shape[:2], 3)


def test_how_tiles_are_cut_can_be_said_anew(trained, pictures, tmp_path, capsys):
    predict = ("predict", str(pictures / "b.png"), f"--workdir={trained}")
    for name, flags in dict(a=(), b=("--config.task.tile=96", "--config.task.seams=blend")).items():
        assert run(*predict, f"--output={tmp_path / name}", *flags) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "a/b_mask.png"), pixels(tmp_path / "b/b_mask.png"))
    assert run(*predict, "--config.task.tile=20") == 2
    assert "tile=20 is too small" in capsys.readouterr().err


def test_blended_seams_agree(trained):
    loaded = inference.load(trained)
    loaded.config.task.tile = 96
    image = np.tile(digit_scenes.scene("test", 3)["image"], (3, 3, 1))[:170, :130]
    cut, blended = (
        np.concatenate([rows for _, rows in inference.predictor(loaded, blend=blend)(image)]) for blend in (False, True)
    )
    np.testing.assert_allclose(cut, blended, atol=1e-5)
    assert cut.shape == (170, 130, 11) and np.allclose(cut.sum(-1), 1, atol=1e-4)


@pytest.mark.slow  # the loop is the one of test_loop
def test_a_run_in_two_halves_equals_one_in_one(tmp_path):
    flags = (
        *SMALL,
        "--config.schedule.name=constant",
        "--config.schedule.warmup=0",
        "--config.input.augmentation.elastic=2",
    )
    flags += ("--config.data.test=", "--config.checkpoint.test=last")
    for name, stops in dict(whole=[8], halves=[5, 8]).items():
        for steps in stops:
            assert run("train", *flags, f"--config.steps={steps}", f"--workdir={tmp_path / name}") == 0
    whole, halves = (inference.load(tmp_path / name, "last").variables for name in ("whole", "halves"))
    jax.tree.map(np.testing.assert_array_equal, whole, halves)


def test_pairs_of_ones_own(tmp_path, capsys):
    for split, count in (("train", 6), ("test", 2)):
        for i in range(count):
            scene = digit_scenes.scene(split, i)
            for kind, pixels in (("images", scene["image"][..., 0]), ("masks", scene["instances"])):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[: 40 + i]).save(tmp_path / split / kind / f"{i}.png")
    flags = (*SMALL[:3], "--config.devices=2", "--config.source=mask_folder", f"--config.source.dir={tmp_path}")
    flags += ("--config.batch_size=8", "--config.task.crop=32", "--config.task.border_weight=5")
    flags += ("--config.input.augmentation.flip=true", "--config.input.augmentation.elastic=2")
    workdir = tmp_path / "run"
    with no_pictures():
        assert run("train", *flags, "--config.steps=6", f"--workdir={workdir}") == 0
    out = capsys.readouterr().out
    assert "Masks are read as instances" in out and "2 classes, of 1 channel and their own sizes" in out
    assert json.loads((workdir / "summary.json").read_text())["pixels"] == 64 * (40 + 41)
    shutil.rmtree(tmp_path / "train")
    assert run("predict", str(tmp_path / "test/images"), f"--workdir={workdir}") == 0
    assert (workdir / "predictions/0_objects.png").is_file()


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--config.input.augmentation.mixup=0.2",), "mixup mixes labels of whole images"),
        (("--config.input.size=32",), "config.input.size must be 0"),
        (("--config.data.placement=device",), "placement=device holds images of one size"),
        (("--config.task.cross_entropy=0", "--config.task.dice=0"), "there is no loss"),
        (("--config.task.class_weights=1,2",), "class_weights are 2, but there are 11 classes"),
        (("--config.task.class_weights=" + ",".join("0" * 11),), "class_weights are all 0"),
        (("--config.task.margin=5000",), "tile=256 is too small"),
        (("--config.task.crop=30",), "sides such as 28 or 32, not 30"),
        (("--config.task.tile=20",), "tile=20 is too small"),
        (("--config.model.normalization=group", "--config.model.base=16"), "sees the whole picture"),
        (("--config.model=resnet20_cifar",), "one class of a whole image"),
        (("--config.source=digits",), "another --config.source: digit_scenes or mask_folder or tfds"),
        (("--config.task=classification",), "and this task learns a label: take another --config.task"),
        (("--config.task=classification", "--config.checkpoint.best_metric=mean_iou"), "is no score of classification"),
        (("--config.task=detection",), "There is no task 'detection'"),
        (("--config.task.negatives=3",), "There is no flag --config.task.negatives"),
        (("--config.segmentation.crop=32",), "--config.segmentation.crop is --config.task.crop since version 0.2."),
    ],
)
def test_misuse_gets_a_line(flags, says, tmp_path, capsys):
    given = [flag for flag in SMALL if not any(flag.startswith(f.split("=")[0] + "=") for f in flags)]
    if "--config.model=resnet20_cifar" in flags:
        given = [flag for flag in given if "config.model." not in flag]
    assert run("train", *given, *flags, f"--workdir={tmp_path / 'run'}") == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") <= 2, err


def test_predict_refuses_what_it_cannot_write(trained, pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("predict", str(pictures / "a.png"), f"--workdir={trained}", f"--output={tmp_path / 'file'}") in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "pictures2" / "pictures").mkdir(parents=True)
    for copy in ("a.jpg", "a.png"):
        shutil.copy(pictures / "a.png", tmp_path / "pictures2" / copy)
    assert run("predict", str(tmp_path / "pictures2"), f"--workdir={trained}", f"--output={tmp_path / 'two'}") == 0
    assert {p.name for p in (tmp_path / "two").glob("*_mask.png")} == {
        "pictures2_a_jpg_mask.png",
        "pictures2_a_png_mask.png",
    }


def test_predict_overwrites_nothing_of_others(trained, pictures, tmp_path, capsys):
    truth = np.full((64, 64), 255, np.uint8)
    (pictures / "broken.png").unlink()
    Image.fromarray(truth).save(pictures / "a_mask.png")
    masks = tmp_path / "masks"
    shutil.copytree(pictures, masks, ignore=shutil.ignore_patterns("?.png"))
    predict = ("predict", str(pictures), f"--workdir={trained}")
    for folder, says in ((pictures, "holds images that are to be predicted"), (masks, "predict did not write it")):
        assert run(*predict, f"--output={folder}") == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1 and str(folder) in err
    for folder in (pictures, masks):
        np.testing.assert_array_equal(pixels(folder / "a_mask.png"), truth)
    assert {path.name for path in masks.iterdir()} == {"a_mask.png"}
    for _ in range(2):  # its own files it may write again; the true mask is no picture
        assert run(*predict, f"--output={tmp_path / 'out'}", "--format=json") == 0
        assert [os.path.basename(row["file"]) for row in json.loads(capsys.readouterr().out)] == [
            "a.png",
            "b.png",
            "c.png",
        ]


def test_pictures_made_of_pictures_are_left_out(pictures):
    from cnnjax.data.folder import list_pictures

    for name in ("a_mask.png", "b_overlay.png", "b_objects.png", "lonely_mask.png"):
        shutil.copy(pictures / "a.png", pictures / name)
    listed = [path.name for path in list_pictures([pictures], tasks.options("segmentation").written)]
    assert listed == ["a.png", "b.png", "broken.png", "c.png", "lonely_mask.png"]
    assert list_pictures([pictures / "a_mask.png"], tasks.options("segmentation").written) == [pictures / "a_mask.png"]
    assert len(list_pictures([pictures])) == 8


def test_too_many_objects_in_one_picture_stop_no_other(trained, pictures, tmp_path, capsys, monkeypatch):
    many = lambda mask, smallest: np.full(mask.shape, 70_000 if len(mask) == 150 else 3, np.int32)
    monkeypatch.setattr(segmentation_files, "objects", many)
    assert run("predict", str(pictures), f"--workdir={trained}", f"--output={tmp_path / 'out'}") == 1
    captured = capsys.readouterr()
    assert "b.png has 70,000 objects: at most 65,535 can be numbered" in captured.err and captured.err.count("\n") == 2
    assert [row["objects"] for row in json.loads((tmp_path / "out/areas.json").read_text())] == [3, 3]
    assert not (tmp_path / "out/b_mask.png").exists() and (tmp_path / "out/c_objects.png").exists()


def test_areas_of_what_was_done_are_kept(trained, pictures, tmp_path, capsys, monkeypatch):
    write = segmentation_files._write_overlay

    def full(path, image, mask):
        if path.name.startswith("b"):
            raise OSError(28, "No space left on device", str(path))
        write(path, image, mask)

    monkeypatch.setattr(segmentation_files, "_write_overlay", full)
    assert run("predict", str(pictures), f"--workdir={trained}", f"--output={tmp_path / 'out'}") == 1
    assert "b_overlay.png cannot be written: No space left" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out/areas.json").read_text())
    assert [os.path.basename(row["file"]) for row in rows] == ["a.png"]


def test_nothing_written_is_not_said_to_be_there(trained, pictures, tmp_path, capsys):
    assert run("predict", str(pictures / "broken.png"), f"--workdir={trained}", f"--output={tmp_path / 'out'}") == 1
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()


def test_predict_heeds_the_kernels(trained, pictures, tmp_path, monkeypatch):
    from cnnjax import parallel

    chosen, layout = [], parallel.layout
    monkeypatch.setattr(parallel, "layout", lambda *a, **k: chosen.append(k.get("kernels", "auto")) or layout(*a, **k))
    predict = ("predict", str(pictures / "c.png"), f"--workdir={trained}", f"--output={tmp_path}/out")
    assert run(*predict, "--config.kernels=xla") == run(*predict) == 0
    assert chosen == ["xla", "auto"]


def test_parts_are_numbered_where_they_are_scored(trained, pictures, tmp_path):
    loaded = inference.load(trained)
    loaded = loaded._replace(record=loaded.record._replace(has_objects=False))
    loaded.config.task.objects = "parts"
    writer = loaded.network.task.writer(loaded.record, loaded.config, tmp_path / "out", {})
    ((_, result),) = inference.write_predictions(loaded, [pictures / "a.png"], writer)
    assert pixels(tmp_path / "out/a_objects.png").max() == result["objects"]


def test_a_run_knows_its_classes(tmp_path, monkeypatch, capsys):
    """Masks and legend are found from anywhere; the run is scored on masks that hold fewer of its classes."""
    monkeypatch.chdir(tmp_path)
    for folder, values in dict(cells=(2, 7, 9), other=(2, 7)).items():
        for i in range(4):
            scene = digit_scenes.scene("train", i)
            truth = np.array(values, np.uint8)[scene["instances"] % len(values)]
            for kind, array in dict(images=scene["image"][..., 0], truth=truth).items():
                (tmp_path / folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / kind / f"{i}.png")
    (tmp_path / "legend.json").write_text(json.dumps(dict(none=2, odd=7, even=9)))
    experiment = os.path.join(os.path.dirname(os.path.dirname(__file__)), "experiments/folder_unet.py")
    flags = (f"--config={experiment}", "--config.model.base=4", "--config.model.depth=1", "--config.schedule.warmup=0")
    flags += ("--config.source.dir=cells/images", "--config.source.masks=cells/truth", *QUICK)
    flags += ("--config.task.crop=32", "--config.source.legend=legend.json", "--config.batch_size=4")
    with no_pictures():
        assert run("train", *flags, "--config.steps=4", "--workdir=run") == 0
    assert "border_weight does nothing here: the masks do not number objects" in capsys.readouterr().out
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (
        config["source"]["masks"] == f"{tmp_path}/cells/truth"
        and config["source"]["legend"] == f"{tmp_path}/legend.json"
    )
    (tmp_path / "legend.json").unlink()
    monkeypatch.chdir(tmp_path / "run")
    evaluate = ("evaluate", "--workdir=.", "--format=json", "--split=all")
    assert run(*evaluate) == 0
    capsys.readouterr()
    other = (f"--config.source.dir={tmp_path}/other/images", f"--config.source.masks={tmp_path}/other/truth")
    assert run(*evaluate, *other) == 0
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert [row["name"] for row in classes] == ["none", "odd", "even"] and classes[2]["pixels"] == 0

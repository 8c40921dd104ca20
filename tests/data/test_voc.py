"""Boxes of Pascal VOC, and cutting objects out by them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import voc
from cnnjax.errors import UserError

ROOT = Path(__file__).parents[2]


def annotation(*boxes):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in boxes
    )
    return f"<annotation>{objects}</annotation>"


def test_boxes_count_from_one_and_include_the_last_pixel(tmp_path):
    (tmp_path / "a.xml").write_text(annotation(("cell", 1, 2, 3, 6)))
    assert voc.read_boxes(tmp_path / "a.xml") == ([voc.Box("cell", top=1, left=0, bottom=6, right=3)], [])


def test_boxes_that_cannot_be_used_are_named(tmp_path):
    boxes = [("cell", 5, 5, 5, 9), ("", 1, 1, 2, 2), ("cell", "x", 1, 2, 2), ("cell", 1, 1, 2, 2)]
    (tmp_path / "a.xml").write_text(annotation(*boxes))
    kept, dropped = voc.read_boxes(tmp_path / "a.xml")
    assert kept == [voc.Box("cell", 0, 0, 2, 2)]
    assert dropped == [
        "a.xml: box 1 (cell) has no area: 5, 5 to 5, 9",
        "a.xml: box 2 has no name",
        "a.xml: box 3 (cell) has no four numbers",
    ]


def test_files_that_are_missing_or_no_xml_are_named(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(UserError, match="a.xml is no XML"):
        voc.read_boxes(tmp_path / "a.xml")
    with pytest.raises(UserError, match="b.xml cannot be read"):
        voc.read_boxes(tmp_path / "b.xml")
    with pytest.raises(UserError, match="train.txt cannot be read.*--voc"):
        voc.read_image_set(tmp_path, "train")


def test_cells_are_cut_into_a_folder_of_classes(tmp_path):
    spec = importlib.util.spec_from_file_location("cells", ROOT / "experiments" / "data" / "cells.py")
    cells = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cells)
    root = tmp_path / "voc"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{stem}\n")
        boxes = [("red", 3, 1, 6, 2), ("white", 5, 5, 12, 10), ("red", 4, 4, 4, 4), ("red", 50, 50, 60, 60)]
        (root / "Annotations" / f"{stem}.xml").write_text(annotation(*boxes))
        # Twelve wide, ten high, of one grey: JPEG keeps it.
        Image.fromarray(np.full((10, 12, 3), 100, np.uint8)).save(root / "JPEGImages" / f"{stem}.jpg")
    counts, dropped = cells.cut(root, tmp_path / "out")
    assert counts == {split: dict(red=1, white=1) for split in ("train", "validation", "test")}
    assert len(dropped) == 6 and "has no area" in dropped[0] and "outside its picture" in dropped[1]
    with Image.open(tmp_path / "out" / "validation" / "white" / "b_1.png") as picture:
        assert picture.size == (8, 6)
    with Image.open(tmp_path / "out" / "train" / "red" / "a_0.png") as picture:
        assert picture.size == (4, 2)

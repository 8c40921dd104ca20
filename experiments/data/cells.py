"""Cuts the objects out of a data set with boxes, into a folder of classes that `--config.source=class_folder` reads.

python experiments/data/cells.py --voc=DIR/bccd --out=data/bccd_cells

The form of Pascal VOC: Annotations/*.xml, JPEGImages/*.jpg, ImageSets/Main/{train,val,test}.txt. Boxes without area are
named and left out. BCCD (blood cells; https://github.com/Shenggan/BCCD_Dataset, MIT) gives 4,886 cells of three classes.
"""

import sys
from collections import Counter
from pathlib import Path

from absl import app, flags
from PIL import Image

from cnnjax.data import voc
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
SPLITS = dict(train="train", val="validation", test="test")


def cut(root: Path, out: Path) -> tuple[dict[str, Counter], list[str]]:
    """Writes OUT/{train,validation,test}/{class}/{picture}_{box}.png. Returns counts, and what was left out."""
    counts, dropped = {}, []
    for name, split in SPLITS.items():
        counts[split] = Counter()
        for stem in voc.read_image_set(root, name):
            boxes, bad = voc.read_boxes(root / "Annotations" / f"{stem}.xml")
            dropped += bad
            with Image.open(root / "JPEGImages" / f"{stem}.jpg") as picture:
                pixels = picture.convert("RGB")
            for number, box in enumerate(boxes):
                edges = (
                    max(0, box.left),
                    max(0, box.top),
                    min(pixels.width, box.right),
                    min(pixels.height, box.bottom),
                )
                if edges[0] >= edges[2] or edges[1] >= edges[3]:
                    dropped.append(f"{stem}.xml: box {number + 1} ({box.name}) lies outside its picture")
                    continue
                folder = out / split / box.name
                folder.mkdir(parents=True, exist_ok=True)
                pixels.crop(edges).save(folder / f"{stem}_{number}.png")
                counts[split][box.name] += 1
    return counts, dropped


def main(_) -> None:
    root, out = Path(FLAGS.voc).expanduser(), Path(FLAGS.out).expanduser()
    try:
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out={out} is not empty: give a new folder.")
        counts, dropped = cut(root, out)
    except (UserError, OSError) as error:
        print(f"cells: {error}", file=sys.stderr)
        sys.exit(2)
    for line in dropped:
        print(f"left out: {line}")
    for split, count in counts.items():
        print(f"{split:10}  " + ", ".join(f"{n} {name}" for name, n in sorted(count.items())))


if __name__ == "__main__":
    flags.DEFINE_string("voc", None, "the folder with Annotations, JPEGImages and ImageSets", required=True)
    flags.DEFINE_string("out", None, "the folder to write", required=True)
    app.run(main)

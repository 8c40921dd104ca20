"""What an experiment may vary of segmentation."""

import dataclasses
from typing import ClassVar

from cnnjax.errors import UserError
from cnnjax.knobs import MACHINE, knob


@dataclasses.dataclass(slots=True)
class Options:
    """A class a pixel."""

    name: str = "segmentation"
    crop: int = knob(128, "pixels: side of the parts of images that a network is trained on", low=1)
    tile: int = knob(
        256, "pixels: side of the tiles, at most, in which whole images go through the network", low=1, kind=MACHINE
    )
    margin: int = knob(
        -1, "pixels of each tile's border that are thrown away; -1: as the field of view needs, which is exact", low=-1
    )
    seams: str = knob(
        "crop",
        "of predict alone, where tiles meet: cut, or overlap and blend; evaluation cuts",
        choices=("crop", "blend"),
        kind=MACHINE,
    )
    cross_entropy: float = knob(1.0, "weight of the cross-entropy in the loss", low=0)
    dice: float = knob(0.0, "weight of the soft Dice loss", low=0)
    focal: float = knob(0.0, "weight of the focal loss", low=0)
    focal_gamma: float = knob(2.0, "focal loss: exponent of 1 - p", low=0)
    label_smoothing: float = knob(
        0.0, "cross-entropy: part of the target spread evenly over all classes", low=0, below=1
    )
    class_weights: tuple[float, ...] = knob(
        (), "of the cross-entropy and focal loss, one a class; empty: 1 each", low=0
    )
    border_weight: float = knob(
        0.0, "extra weight of pixels between two objects (U-Net: 10); objects that touch are parted by a pixel", low=0
    )
    border_width: float = knob(5.0, "pixels: how far from the objects that weight reaches (U-Net: 5)", above=0)
    objects: str = knob(
        "given",
        "whose finding is scored: objects that the masks number, or connected parts of all that is not the first class",
        choices=("given", "parts"),
    )
    smallest_object: int = knob(0, "pixels: smaller predicted objects are dropped", low=0)

    target: ClassVar[str] = "mask"
    written: ClassVar[tuple[str, ...]] = (
        "_mask",
        "_overlay",
        "_objects",
    )  # ends of the names of files that predict writes
    scores: ClassVar[dict[str, str]] = dict(mean_iou="higher", mean_dice="higher", accuracy="higher", loss="lower")

    def check(self, config) -> None:
        """Raises UserError for values that do not go together, or not with the augmentation or the data's place."""
        _check_augmentation(config.input.augmentation)
        if config.data.placement == "device":
            raise UserError(
                "config.data.placement=device holds images of one size, not crops: take auto, host or stream."
            )
        if config.input.size:
            raise UserError(
                "config.input.size must be 0 for segmentation: images and masks are taken as they are, and "
                "config.task.crop says how large the parts are that a network is trained on."
            )
        if not (self.cross_entropy or self.dice or self.focal):
            raise UserError("config.task.cross_entropy, dice and focal are all 0: there is no loss.")
        if self.class_weights and not any(self.class_weights):
            raise UserError("config.task.class_weights are all 0: give a class a weight, or leave them out.")

    def build(self):
        """The task: see `cnnjax/tasks/__init__.py`."""
        from cnnjax.tasks.segmentation.task import Task  # which loads JAX

        return Task(self)


def _check_augmentation(augmentation) -> None:
    """Raises UserError for what has no meaning where every pixel has a class."""
    crops = [name for name in ("random_resized_crop", "random_crop", "pad_and_crop") if getattr(augmentation, name)]
    if crops:
        raise UserError(
            f"config.input.augmentation.{crops[0]} is for one class an image: config.task.crop says how large the parts are that "
            "segmentation is trained on."
        )
    for name in ("mixup", "cutmix"):
        if getattr(augmentation, name):
            raise UserError(
                f"config.input.augmentation.{name} mixes labels of whole images: segmentation has none. Set it to 0."
            )
    if augmentation.views != "one":
        raise UserError(
            f"config.input.augmentation.views={augmentation.views} is for one class an image: set it to one."
        )

"""What an experiment may vary of images: the form they are brought to, and how they are changed at random."""

import dataclasses
from typing import ClassVar

from cnnjax.errors import UserError
from cnnjax.knobs import knob


@dataclasses.dataclass(slots=True)
class Augmentation:
    """Random changes of the training images, on the device, each off by default. Listed in the order they are applied."""

    random_resized_crop: int = knob(0, "pixels: a random part of the image, scaled to this square", low=0)
    crop_area: float = knob(0.08, "smallest part of the area that random_resized_crop takes", above=0, high=1)
    crop_aspect: float = knob(4 / 3, "largest aspect ratio (and its inverse) of that part", low=1)
    random_crop: int = knob(
        0, "pixels: a square of this side at a random place; the centre in evaluation (AlexNet: 224 of 256)", low=0
    )
    pad_and_crop: int = knob(
        0, "pixels: pad by this much on each side with zeros, crop at random to the old size", low=0
    )
    flip: bool = knob(False, "reflect left and right with probability 1/2")
    rotation: float = knob(0.0, "degrees: turn by up to this much either way", low=0, high=180)
    scale: float = knob(0.0, "enlarge or shrink by a factor of up to 1 +- this", low=0, below=1)
    shear: float = knob(0.0, "degrees: shear by up to this much either way", low=0, below=90)
    shift: float = knob(0.0, "fraction of the side: move by up to this much in each direction", low=0, high=1)
    brightness: float = knob(0.0, "multiply by a factor in 1 +- this", low=0, high=1)
    contrast: float = knob(0.0, "stretch about the image's mean grey by a factor in 1 +- this", low=0, high=1)
    saturation: float = knob(0.0, "blend with the grey image by a factor in 1 +- this (colour only)", low=0, high=1)
    hue: float = knob(
        0.0, "turn the hue by up to this fraction of the circle either way (colour only)", low=0, high=0.5
    )
    pca_noise: float = knob(
        0.0, "deviation of AlexNet's noise along the colours' principal components; the paper: 0.1", low=0
    )
    views: str = knob(
        "one",
        "what evaluation sees: the middle of the image, or ten crops of it (with random_crop) whose probabilities are averaged",
        choices=("one", "ten_crop"),
    )
    flip_vertical: bool = knob(False, "reflect above and below with probability 1/2")
    quarter_turns: bool = knob(False, "turn by 0, 90, 180 or 270 degrees")
    elastic: float = knob(
        0.0, "pixels: deviation of random displacements on a coarse grid, smoothly interpolated (U-Net: 10)", low=0
    )
    elastic_grid: int = knob(3, "points a side of that grid", low=2)
    noise: float = knob(0.0, "deviation of noise added to each value, which lie in 0..1", low=0)
    cutout: int = knob(0, "pixels: a square of this side at a random place is set to zero", low=0)
    mixup: float = knob(0.0, "alpha of Beta(alpha, alpha): blend with another image of the batch; 0: off", low=0)
    cutmix: float = knob(
        0.0, "alpha of Beta(alpha, alpha): paste a part of another image; with mixup, one of the two at random", low=0
    )


@dataclasses.dataclass(slots=True)
class Options:
    """Images, grey or in colour."""

    name: str = "images"
    size: int = knob(0, "pixels: images are brought to this square; 0: as stored, or 128 where sizes are mixed", low=0)
    channels: int = knob(0, "1 grey, 3 colour; 0: as stored", low=0, high=3)
    resize: str = knob(
        "crop",
        "other shapes: scale the short side and crop the centre, stretch, or pad with black",
        choices=("crop", "stretch", "pad"),
    )
    normalization: str = knob(
        "dataset",
        "per channel by the mean and deviation of train, to [-1, 1] (unit), less that mean in 0..255 (mean), or none",
        choices=("dataset", "unit", "mean", "none"),
    )
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    key: ClassVar[str] = "image"
    axes: ClassVar[tuple[str, ...]] = ("height", "width", "channels")

    def shaped(self, example_shape: tuple[int, int, int]) -> "Options":
        """These options, where other images are to be brought to `(H, W, C)`; 0 is any height and width."""
        height, width, channels = example_shape
        size = height if height == width else 0
        return dataclasses.replace(self, channels=channels if channels in (1, 3) else 0, size=size)

    def check(self) -> None:
        """Raises UserError for values that do not go together."""
        crops = [n for n in ("random_crop", "random_resized_crop") if getattr(self.augmentation, n)]
        if len(crops) > 1:
            raise UserError(
                "config.input.augmentation.random_crop and random_resized_crop exclude each other: set one of them to 0."
            )
        if self.augmentation.views == "ten_crop" and not self.augmentation.random_crop:
            raise UserError(
                "config.input.augmentation.views=ten_crop takes crops as large as random_crop: set that too."
            )
        if self.channels == 2:
            raise UserError("config.input.channels must be 0 (as stored), 1 or 3, not 2.")

    def build(self):
        """The kind of input: see `cnnjax/inputs/__init__.py`."""
        from cnnjax.inputs.images.images import Images  # which loads JAX

        return Images(self)

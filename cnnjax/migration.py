"""Configurations of earlier versions, as this one has them: records of runs, and names that people still type.

The number of the format stands in config.json since version 0.2; those without one are of 0.1, format 1.
"""

from typing import Any

from cnnjax.errors import UserError

FORMAT = 2
EMBEDDED = ("digits", "digit_pairs", "digit_scenes")  # sets that 0.1 knew by `data.name`, as sources are now
OF_TASK = ("crop", "tile", "margin", "seams", "cross_entropy", "dice", "focal", "focal_gamma", "class_weights",
           "border_weight", "border_width", "objects", "smallest_object")  # fmt: skip
OF_INPUT = dict(image_size="size", channels="channels", resize="resize", normalization="normalization")
OF_SOURCE = dict(data_dir="dir", masks="masks", mask_kind="mask_kind", legend="legend", ignore="ignore",
                 test_files="test_files", test_fraction="test_fraction", skip_bad_files="skip_bad_files")  # fmt: skip
HAS = dict(  # which of these a source has
    class_folder=("data_dir", "test_fraction", "skip_bad_files"),
    mask_folder=tuple(OF_SOURCE),
    tfds=("data_dir", "mask_kind", "legend", "ignore"),
)
# What a field of 0.1 is called now. A flag with an old name is answered with its new one.
RENAMED = {f"segmentation.{name}": f"task.{name}" for name in OF_TASK}
RENAMED |= {"label_smoothing": "task.label_smoothing", "data.name": "source"}
RENAMED |= {f"data.{old}": f"input.{new}" for old, new in OF_INPUT.items()}
RENAMED |= {f"data.{old}": f"source.{new}" for old, new in OF_SOURCE.items()}


def new_name(old: str) -> str | None:
    """What a field of 0.1 is called now; None for a name that it did not have, or that has stayed."""
    if old.startswith("augmentation."):
        return f"input.{old}"
    return RENAMED.get(old)


def current(values: Any) -> dict[str, Any]:
    """The values of a config.json, of any format, in this one.

    Raises:
      UserError: they are none, or of a later version.
    """
    if not isinstance(values, dict):
        raise UserError("config.json is damaged: it holds no configuration.")
    number = values.get("format", 1)
    if type(number) is not int:
        raise UserError(f"config.json is damaged: its format is {number!r}.")
    if number == 1:
        try:
            return _from_format_1(values)
        except (AttributeError, TypeError, KeyError) as error:
            raise UserError(f"config.json is damaged: {error!r}.") from None
    if number != FORMAT:
        raise UserError(
            f"config.json is of format {number}: this version of cnnjax reads up to {FORMAT}. Take a newer one."
        )
    return values


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """`task` and `data.name` were names; what only one task, input or source needs stood beside them."""
    values = dict(values)
    name, data = values.pop("task", "classification"), values.pop("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("name", ""), str) or not isinstance(name, str):
        raise TypeError("task, or data")
    data = dict(data)
    of_segmentation, smoothing = values.pop("segmentation", {}), values.pop("label_smoothing", 0.0)
    own = of_segmentation if name == "segmentation" else {}
    of_input = {new: data.pop(old) for old, new in OF_INPUT.items() if old in data}
    augmentation = values.pop("augmentation", {})
    of_source = {old: data.pop(old) for old in OF_SOURCE if old in data}
    return values | dict(
        format=FORMAT,
        task=dict(name=name, label_smoothing=smoothing) | own,
        input=dict(name="images", augmentation=augmentation) | of_input,
        source=_source(data.pop("name", "digits"), name, of_source),
        data=data,
    )


def _source(name: str, task: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The options of the source that `data.name` stood for."""
    if name in EMBEDDED:
        return dict(name=name)
    folder = "mask_folder" if task == "segmentation" else "class_folder"
    chosen = dict(name=folder) if name == "folder" else dict(name="tfds", set=name)
    return chosen | {OF_SOURCE[old]: value for old, value in fields.items() if old in HAS[chosen["name"]]}

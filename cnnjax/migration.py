"""Configurations of earlier versions, as this one has them: records of runs, and names that people still type.

The number of the format stands in config.json since version 0.2; those without one are of 0.1, format 1.
"""

from typing import Any

from cnnjax.errors import UserError

FORMAT = 2
TASK_FIELDS = ("crop", "tile", "margin", "seams", "cross_entropy", "dice", "focal", "focal_gamma", "class_weights",
               "border_weight", "border_width", "objects", "smallest_object")  # fmt: skip
# What a field of 0.1 is called now. A flag with an old name is answered with its new one.
RENAMED = {f"segmentation.{name}": f"task.{name}" for name in TASK_FIELDS}
RENAMED |= {"label_smoothing": "task.label_smoothing"}


def current(values: Any) -> dict[str, Any]:
    """The values of a config.json, of any format, in this one.

    Raises:
      UserError: they are none, or of a later version.
    """
    if not isinstance(values, dict):
        raise UserError("config.json is damaged: it holds no configuration.")
    number = values.get("format", 1)
    if number == 1:
        return _from_format_1(values)
    if number != FORMAT:
        raise UserError(
            f"config.json is of format {number}: this version of cnnjax reads up to {FORMAT}. Take a newer one."
        )
    return values


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """`task` was a name; what only one task needs stood beside it."""
    values = dict(values)
    name = values.pop("task", "classification")
    of_segmentation, smoothing = values.pop("segmentation", {}), values.pop("label_smoothing", 0.0)
    if not isinstance(of_segmentation, dict):
        raise UserError("config.json is damaged: its segmentation is no section.")
    own = of_segmentation if name == "segmentation" else {}
    return values | dict(format=FORMAT, task=dict(name=name, label_smoothing=smoothing) | own)

"""A picture of the field of view of a layer, drawn over an image."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnjax.errors import UserError
from cnnjax.inspection.effective import effective_field_of_view
from cnnjax.inspection.layer_table import Row, Table, output_of
from cnnjax.knobs import nearest


def draw(path: str, table: Table, module: nn.Module, image: Any, layer: str | None, over: str | None, **kwargs) -> str:
    """Writes a picture of what the centre position of a layer sees: the whole field of view, and the effective one.

    The network has its first random weights, of seed 0.

    Args:
      table: of the network, for an `image` of this shape `[1, H, W, C]`.
      layer: a name from the table; None: the last one that has positions.
      over: a picture file to draw over; None: grey.

    Returns:
      A sentence on what was drawn.

    Raises:
      UserError: no such layer, no positions, no such picture, or an input that is no picture.
    """
    if len(image.shape) != 4:
        raise UserError(
            f"A field of view is drawn over a picture: the input must be H,W,C, not of shape {image.shape[1:]}."
        )
    _check_writable(path)
    background = _background(over, image.shape[1:3])
    row = _chosen(table, layer)
    variables = module.init(jax.random.key(0), jax.numpy.zeros(image.shape, image.dtype), **kwargs)
    effective = effective_field_of_view(lambda x: output_of(module, variables, row.name, x, **kwargs), image)
    _save(path, row, background, effective)
    sizes, widths = "x".join(str(v.size) for v in row.field_of_view), "x".join(f"{w:.0f}" for w in effective.width)
    return f"{row.name} sees {sizes} pixels, effectively {widths} (95.45 % of a Gaussian): {path}"


def _chosen(table: Table, layer: str | None) -> Row:
    spatial = {row.name: row for row in table.rows if row.field_of_view and len(row.shape) == 4}
    if not spatial:
        raise UserError(f"No layer has positions whose field of view is known. {table.unknown}".strip())
    if layer is None:
        return list(spatial.values())[-1]
    if layer not in spatial:
        known = {row.name for row in table.rows}
        why = " has no positions." if layer in known else f": there is no such layer.{nearest(layer, spatial)}"
        raise UserError(f"--layer={layer}{why}")
    return spatial[layer]


def _background(over: str | None, shape: tuple[int, int]) -> np.ndarray:
    """`[H, W, 3]` in [0, 1]."""
    if over is None:
        return np.full((*shape, 3), 0.5)
    try:
        with Image.open(over) as picture:
            return np.asarray(picture.convert("RGB").resize(shape[::-1]), np.float64) / 255
    except UnidentifiedImageError:
        raise UserError(f"--image={over} is no picture that can be read.") from None
    except OSError as error:
        raise UserError(f"--image={over} cannot be read: {error.strerror or error}.") from None


def _check_writable(path: str) -> None:
    """At the door: before anything is computed."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise UserError(f"--picture={path} must end in .png, .jpg, .pdf or .svg.")
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"--picture={path}: there is no folder {Path(path).parent}.")


def _save(path: str, row: Row, background: np.ndarray, effective) -> None:
    from matplotlib.figure import Figure  # which loads slowly
    from matplotlib.patches import Rectangle

    height, width = background.shape[:2]
    figure = Figure(figsize=(7, 7 * height / width + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(background, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    heat = effective.weight / effective.weight.max()
    axes.imshow(
        heat, cmap="inferno", alpha=np.clip(heat, 0.0, 1.0) ** 0.5, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
    centre = [n // 2 for n in row.shape[1:3]]
    (top, left), (bottom, right) = (
        [int(getattr(view, end)[at]) for view, at in zip(row.field_of_view, centre)] for end in ("low", "high")
    )
    box = dict(fill=False, linewidth=2)
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, edgecolor="deepskyblue",
                             label="field of view", **box))  # fmt: skip
    mean = [(np.arange(n) * effective.weight.sum(1 - a)).sum() for a, n in enumerate(effective.weight.shape)]
    tall, wide = effective.width
    axes.add_patch(Rectangle((mean[1] - wide / 2, mean[0] - tall / 2), wide, tall, edgecolor="lime", linestyle="--",
                             label="effective (95.45 %)", **box))  # fmt: skip
    sizes = "x".join(str(view.size) for view in row.field_of_view)
    axes.set_title(
        f"{row.name}: {sizes} pixels, stride {row.field_of_view[0].stride}; effectively {tall:.0f}x{wide:.0f}"
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.legend(loc="upper right")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"--picture={path} cannot be written: {error.strerror}.") from None

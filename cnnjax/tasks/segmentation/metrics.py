"""How good masks are: sums over pixels, and the scores and tables that are made of them."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.source import IGNORED
from cnnjax.tasks.segmentation import instances
from cnnjax.tasks.segmentation.loss import middle


def metrics(logits: jax.Array, batch: dict, detailed: bool = False) -> dict[str, jax.Array]:
    """Sums over the batch: `count` of examples, `loss` (cross-entropy in nats, unweighted) and `correct` over `pixels`,
    and of each class the pixels that are of it (`true`), are given it (`predicted`), or both (`both`), `[K]` int32.

    Detailed ones besides: `confusion` `[K, K]` int32 (row: label, column: prediction).
    """
    height, width, classes = logits.shape[1:]
    mask = middle(batch["mask"], height, width)
    counted = (mask != IGNORED) & (batch["weight"] > 0)[:, None, None]
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.minimum(mask, classes - 1)[..., None], -1)[..., 0]
    numbers = jnp.arange(classes, dtype=jnp.uint8)[None, None, None]
    true = (mask[..., None] == numbers) & counted[..., None]
    predicted = (logits.argmax(-1)[..., None] == numbers) & counted[..., None]
    number = lambda of: of.sum((0, 1, 2), dtype=jnp.int32)
    sums = dict(
        count=batch["weight"].sum(),
        pixels=counted.sum(dtype=jnp.int32),
        loss=-jnp.where(counted, own, 0.0).sum(),
        true=number(true),
        predicted=number(predicted),
        both=number(true & predicted),
    )
    sums["correct"] = sums["both"].sum()
    if detailed:
        column = lambda k: number(true & predicted[..., k, None])
        sums["confusion"] = jax.lax.map(column, jnp.arange(classes)).T
    return sums


def scores(sums: dict) -> dict[str, float]:
    """The means that sums stand for: loss (nats a pixel), accuracy, and IoU and Dice as means over classes that occur."""
    true, predicted, both = (np.asarray(sums[name], np.float64) for name in ("true", "predicted", "both"))
    pixels = max(float(sums["pixels"]), 1.0)
    occur = true + predicted > 0
    mean = lambda values: float(values[occur].mean()) if occur.any() else 0.0
    return dict(
        loss=float(sums["loss"]) / pixels,
        accuracy=float(sums["correct"]) / pixels,
        mean_iou=mean(_ratio(both, true + predicted - both)),
        mean_dice=mean(_ratio(2 * both, true + predicted)),
    )


def summary(sums: dict, class_names: tuple[str, ...]) -> dict:
    """Scores, with IoU, Dice, precision and recall of each class (0 of one that does not occur), and of objects."""
    true, predicted, both = (np.asarray(sums[name], np.float64) for name in ("true", "predicted", "both"))
    columns = dict(
        iou=_ratio(both, true + predicted - both),
        dice=_ratio(2 * both, true + predicted),
        precision=_ratio(both, predicted),
        recall=_ratio(both, true),
    )
    classes = [
        dict(name=name, pixels=int(true[k]), **{column: float(values[k]) for column, values in columns.items()})
        for k, name in enumerate(class_names)
    ]
    result = dict(
        **scores(sums),
        examples=int(sums.get("scenes", sums["count"])),
        pixels=int(sums["pixels"]),
        classes=classes,
    )
    if "pictures" in sums:
        result |= dict(objects=instances.object_scores(sums))
    return result


def summary_lines(summary: dict, most: int = 20) -> list[str]:
    """The report for a person, of the `most` worst classes where there are more."""
    error = f"pixel error {1 - summary['accuracy']:.2%}, " if len(summary["classes"]) == 2 else ""
    lines = [
        f"mean IoU {summary['mean_iou']:.4f}, mean Dice {summary['mean_dice']:.4f}, pixel accuracy "
        f"{summary['accuracy']:.2%}, {error}loss {summary['loss']:.4f}, {summary['examples']} pictures"
    ]
    rows = summary["classes"]
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: row["iou"])[:most]
        lines.append(f"the {most} classes with the lowest IoU of {len(summary['classes'])}:")
    width = max(len("class"), *(len(row["name"]) for row in rows))
    lines.append(f"{'class':{width}}     IoU    Dice  precision  recall         pixels")
    for row in rows:
        values = f"{row['iou']:.4f}  {row['dice']:.4f}     {row['precision']:.4f}  {row['recall']:.4f}"
        lines.append(f"{row['name']:{width}}  {values}  {row['pixels']:13,}")
    if "objects" in summary:
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in summary["objects"].items())
        lines.append(f"objects: {shown}")
    return lines


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

"""Segmentation: a class for every pixel.

Batches hold `mask` `[B, H, W]` uint8 (255: the pixel does not count), `weight` `[B]` float32 (0 for padding) and perhaps
`pixel_weight` `[B, H, W]` float32. Logits are `[B, h, w, K]` float32; where they are smaller than the mask, as those of
valid convolutions are, they are of its middle.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Segmentation
from cnnjax.tasks import instances

IGNORED = 255
SHOWN = ("loss", "accuracy", "mean_iou")


def middle(x: jax.Array, height: int, width: int) -> jax.Array:
    """`[B, H, W]` -> `[B, height, width]`."""
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


class Task(NamedTuple):
    """Segmentation by the weights and rules of `options`: what `cnnjax/tasks` asks of a task."""

    options: Segmentation
    shown: tuple[str, ...] = SHOWN

    def loss(self, logits: jax.Array, batch: dict, label_smoothing: float = 0.0) -> jax.Array:
        """Of each example `[B]`, the weighted sum of three losses.

        - cross-entropy: -w c_k log p_k, the mean over all pixels, w the pixel's weight (Ronneberger et al. 2015, eq. 1) and
          c_k its class's; with label smoothing (Szegedy et al. 2016, section 7);
        - focal: the same times (1 - p_k)^gamma (Lin et al. 2017, eq. 5);
        - Dice: 1 - (2 sum p t + 1) / (sum p + sum t + 1), the mean over classes (Milletari et al. 2016, eq. 4, without the
          squares, and with 1 so that a class that neither has nor is given a pixel costs nothing).
        """
        o, (height, width, classes) = self.options, logits.shape[1:]
        mask = middle(batch["mask"], height, width)
        counts = (mask != IGNORED).astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits)
        target = jax.nn.one_hot(mask, classes)  # zeros where a pixel is ignored
        own = (target * log_p).sum(-1)
        weight = counts
        if "pixel_weight" in batch:
            weight = weight * middle(batch["pixel_weight"], height, width)
        if o.class_weights:
            weight = weight * (target * jnp.array(o.class_weights)[None, None, None]).sum(-1)
        total = 0.0
        if o.cross_entropy:
            smooth = (1 - label_smoothing) * own + label_smoothing * log_p.mean(-1)
            total += o.cross_entropy * -(weight * smooth).mean((1, 2))
        if o.focal:
            missing = jnp.maximum(1 - jnp.exp(own), 1e-6)  # a power of 0 may have no finite gradient
            total += o.focal * -(weight * missing**o.focal_gamma * own).mean((1, 2))
        if o.dice:
            p = jnp.exp(log_p) * counts[..., None]
            both, either = (p * target).sum((1, 2)), (p + target).sum((1, 2))
            total += o.dice * (1 - (2 * both + 1) / (either + 1)).mean(-1)
        return total

    def metrics(self, logits: jax.Array, batch: dict, detailed: bool = False) -> dict[str, jax.Array]:
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

    def scores(self, sums: dict) -> dict[str, float]:
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

    def predictions(self, logits: jax.Array) -> jax.Array:
        """Probabilities `[B, h, w, K]`."""
        return jax.nn.softmax(logits)

    def summary(self, sums: dict, class_names: tuple[str, ...]) -> dict:
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
            **self.scores(sums),
            examples=int(sums.get("scenes", sums["count"])),
            pixels=int(sums["pixels"]),
            classes=classes,
        )
        if "pictures" in sums:
            result |= dict(objects=instances.object_scores(sums))
        return result

    def summary_lines(self, summary: dict, most: int = 20) -> list[str]:
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

    def look(self, outputs: Iterable[tuple[int, dict, np.ndarray]]) -> tuple[dict, list[dict]]:
        """Whole pictures put together from tiles: (sums over their objects, some pictures to show).

        Examples to show are dicts of `image` `[H, W, C]` as stored, `true` and `predicted` `[H, W]` uint8.
        """
        sums: dict = {}
        kept: list[tuple[float, int, dict]] = []
        for number, scene in enumerate(pictures(outputs)):
            found = dict(scenes=1) | self._objects(scene)
            sums = {name: sums.get(name, 0) + value for name, value in found.items()}
            counted = scene["true"] != IGNORED
            wrong = float((scene["true"] != scene["predicted"])[counted].mean()) if counted.any() else 0.0
            shown = {name: scene[name] for name in ("image", "true", "predicted")}
            kept = sorted([*kept, (-wrong, number, shown)], key=lambda entry: entry[:2])[:PICTURES_SHOWN]
        return sums, [shown for _, _, shown in kept]

    def _objects(self, scene: dict) -> dict:
        """Sums over the objects of one picture, outside ignored pixels; none where the data do not tell objects apart."""
        true = scene.get("instances")
        if true is None and self.options.objects != "parts":
            return {}
        if true is None:
            true = instances.objects((scene["true"] > 0) & (scene["true"] != IGNORED))
        predicted = instances.objects(scene["predicted"] > 0, self.options.smallest_object)
        true, predicted = instances.counted(true, predicted, scene["true"] == IGNORED)
        return instances.object_sums(true, predicted) | instances.rand_sums(true, predicted)

    def figures(self, sums: dict, examples: list[dict], class_names: tuple[str, ...]) -> dict:
        """Pictures of the result, by name: the confusion matrix, and the worst pictures with what was and should be seen."""
        import matplotlib  # which loads slowly

        from cnnjax.tasks import figures as draw

        with matplotlib.rc_context({"text.parse_math": False}):
            return dict(
                confusion_matrix=draw.confusion_matrix(sums["confusion"], class_names, "pixels"),
                worst_pictures=draw.overlays(examples),
            )


PICTURES_SHOWN = 6


def pictures(outputs: Iterable[tuple[int, dict, np.ndarray]]) -> Iterator[dict]:
    """Tiles `(first, batch, probabilities [B, h, w, K])` in order -> whole pictures, one at a time.

    Each is a dict of `image` `[H, W, C]`, `true` and `predicted` `[H, W]` uint8, and `instances` where tiles have them.
    """
    number, scene = None, {}
    for _, batch, probabilities in outputs:
        for row in np.flatnonzero(batch["weight"] > 0):
            picture, height, width, *place = map(int, batch["tile"][row])
            if picture != number:
                if scene:
                    yield scene
                number, scene = picture, _empty(batch, row, height, width)
            _lay(scene, batch, row, probabilities[row].argmax(-1), *place)
    if scene:
        yield scene


def _empty(batch: dict, row: int, height: int, width: int) -> dict:
    new = dict(true=np.full((height, width), IGNORED, np.uint8), predicted=np.zeros((height, width), np.uint8))
    for name in ("image", "instances"):
        if name in batch:
            array = batch[name]
            new[name] = np.zeros((height, width, *array.shape[3:]), array.dtype)
    return new


def _lay(scene: dict, batch: dict, row: int, predicted: np.ndarray, top: int, left: int, before: int, kept: int):
    """Writes what a tile keeps to its place: (top, left) of the picture is (before, before) of the tile."""
    rows, columns = (min(kept, n - start) for n, start in zip(scene["true"].shape, (top, left)))
    there = slice(top, top + rows), slice(left, left + columns)
    inside = slice(before, before + rows), slice(before, before + columns)
    for name, source in dict(true="mask", image="image", instances="instances").items():
        if name in scene:
            scene[name][there] = batch[source][row][inside]
    shift = before - (batch["mask"].shape[1] - predicted.shape[0]) // 2
    scene["predicted"][there] = predicted[shift : shift + rows, shift : shift + columns]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

"""Segmentation as what training, evaluation and prediction call: see `cnnjax/tasks/__init__.py`.

Batches hold `mask` `[B, H, W]` uint8 (255: the pixel does not count), `weight` `[B]` float32 (0 for padding) and perhaps
`pixel_weight` `[B, H, W]` float32. Logits are `[B, h, w, K]` float32; where they are smaller than the mask, as those of
valid convolutions are, they are of its middle.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.errors import UserError
from cnnjax.tasks.segmentation import examples, loss, metrics, predict, whole_images
from cnnjax.tasks.segmentation.options import Options


class Task(NamedTuple):
    """Segmentation by the weights and rules of `options`."""

    options: Options
    shown: tuple[str, ...] = ("loss", "accuracy", "mean_iou")
    files_at_once: int = 1

    # --- Data ---------------------------------------------------------------------------------------------------------

    def input_shape(self, example_shape: tuple[int, int, int], config) -> tuple[int, int, int]:
        """Of a crop."""
        return self.options.crop, self.options.crop, example_shape[-1]

    def check_outputs(self, outputs: jax.ShapeDtypeStruct, class_names: tuple[str, ...], model: str) -> None:
        """Raises UserError for a network that does not give `[B, h, w, K]`, and for weights of other classes."""
        if outputs.ndim != 4:
            raise UserError(
                f"config.model={model} says one class of a whole image: it cannot be trained to segment: take unet."
            )
        if self.options.class_weights and len(self.options.class_weights) != len(class_names):
            given = len(self.options.class_weights)
            raise UserError(f"config.task.class_weights are {given}, but there are {len(class_names)} classes.")

    def examples(self, network, config, train, validation, test) -> tuple:
        """Crops of train, tiles of validation and test."""
        return examples.examples(self.options, network, config, train, validation, test)

    def evaluated(self, network, config, split):
        """Whole images as tiles."""
        return examples.tiles(self.options, examples.reach_of(network, config), split)

    def notes(self, record) -> tuple[str, ...]:
        """Whether border weights do nothing."""
        if self.options.border_weight and not record.has_objects:
            return ("config.task.border_weight does nothing here: the masks do not number objects.",)
        return ()

    # --- Training and evaluation --------------------------------------------------------------------------------------

    def loss(self, logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        """(sum, normaliser): the loss of each example, weighted, and the weights."""
        weight = batch["weight"]
        return (weight * loss.pixel_loss(self.options, logits, batch)).sum(), weight.sum()

    def metrics(self, logits: jax.Array, batch: dict, detailed: bool = False) -> dict[str, jax.Array]:
        """See `cnnjax/tasks/segmentation/metrics.py`, as of the scores and the summary."""
        return metrics.metrics(logits, batch, detailed)

    def scores(self, sums: dict) -> dict[str, float]:
        return metrics.scores(sums)

    def predictions(self, logits: jax.Array) -> jax.Array:
        """Probabilities `[B, h, w, K]`."""
        return jax.nn.softmax(logits)

    def merge_views(self, logits: jax.Array) -> jax.Array:
        """An image has one view: `check` of the options refuses more."""
        raise NotImplementedError

    def look(self, outputs: Iterable[tuple[int, dict, np.ndarray]]) -> tuple[dict, list[dict]]:
        """Sums over the objects of whole images, and the worst of these."""
        return whole_images.look(self.options, outputs)

    def summary(self, sums: dict, class_names: tuple[str, ...]) -> dict:
        return metrics.summary(sums, class_names)

    def summary_lines(self, summary: dict) -> list[str]:
        return metrics.summary_lines(summary)

    def figures(self, sums: dict, examples: list[dict], class_names: tuple[str, ...]) -> dict:
        """The confusion matrix, and the worst images with what was and should be seen."""
        import matplotlib  # which loads slowly

        from cnnjax.tasks import figures as common
        from cnnjax.tasks.segmentation import figures

        with matplotlib.rc_context({"text.parse_math": False}):  # a class may be called $5
            return dict(
                confusion_matrix=common.confusion_matrix(sums["confusion"], class_names, "pixels"),
                worst_pictures=figures.overlays(examples),
            )

    # --- Prediction ---------------------------------------------------------------------------------------------------

    def predictor(self, apply, network, record, config, blend: bool | None = None):
        """A function of an image `[H, W, C]` of any size, as stored, to rows of probabilities (top, `[rows, W, K]`)."""
        return predict.predictor(apply, network, record, config, blend)

    def predicted(self, predictor, images: list[np.ndarray]) -> Iterable:
        """Of each image its rows, which are computed when they are asked for."""
        return map(predictor, images)

    def writer(self, record, config, folder, flags):
        """Saves masks, overlays and areas."""
        return predict.Writer(record, self.options, folder)

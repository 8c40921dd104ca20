"""Classification as what training, evaluation and prediction call: see `cnnjax/tasks/__init__.py`.

Batches hold `label` `[B]` int32 and `weight` `[B]` float32 (0 for padding); after mixup or cutmix also
`partner_label` `[B]` and `share` `[B]`, the part of the own label in the target. Logits are `[B, K]` float32; a network
in training may give `dict(logits=[B, K], auxiliary=([B, K], ...))` instead.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.errors import UserError
from cnnjax.tasks.classification import loss, metrics, mistakes, predict
from cnnjax.tasks.classification.options import Options


class Task(NamedTuple):
    """Classification by the rules of `options`."""

    options: Options
    shown: tuple[str, ...] = ("loss", "accuracy")
    files_at_once: int = predict.BATCH

    # --- Data ---------------------------------------------------------------------------------------------------------

    def input_shape(self, example_shape: tuple[int, ...], config) -> tuple[int, ...]:
        """Of an example after augmentation. Raises UserError where that cannot be done to it."""
        return config.input.build().output_shape(example_shape)

    def check_outputs(self, outputs: jax.ShapeDtypeStruct, class_names: tuple[str, ...], model: str) -> None:
        """Raises UserError for a network that does not give `[B, K]`."""
        if outputs.ndim != 2:
            raise UserError(
                f"config.model={model} says something of every pixel: it cannot be trained to classify images, but with "
                "--config.task=segmentation."
            )

    def examples(self, network, config, train, validation, test) -> tuple:
        """The examples as they are."""
        return train, validation, test

    def evaluated(self, network, config, split):
        """The examples as they are."""
        return split

    def notes(self, record) -> tuple[str, ...]:
        """All options serve any data."""
        return ()

    # --- Training and evaluation --------------------------------------------------------------------------------------

    def loss(self, outputs, batch: dict) -> tuple[jax.Array, jax.Array]:
        """(sum, normaliser): cross-entropy in nats, weighted, and the weights."""
        weight = batch["weight"]
        return (weight * loss.cross_entropy(outputs, batch, self.options.label_smoothing)).sum(), weight.sum()

    def metrics(self, outputs, batch: dict, detailed: bool = False) -> dict[str, jax.Array]:
        """See `cnnjax/tasks/classification/metrics.py`, as of the scores and the summary."""
        return metrics.metrics(outputs, batch, detailed)

    def scores(self, sums: dict) -> dict[str, float]:
        return metrics.scores(sums)

    def predictions(self, logits: jax.Array) -> jax.Array:
        """Probabilities `[B, K]`."""
        return jax.nn.softmax(logits)

    def merge_views(self, logits: jax.Array) -> jax.Array:
        """`[B, V, K]` -> `[B, K]`."""
        return loss.merge_views(logits)

    def look(self, outputs: Iterable[tuple[int, dict, np.ndarray]]) -> tuple[dict, list[dict]]:
        """No further sums, and the worst mistakes."""
        return {}, mistakes.worst_mistakes(outputs)

    def summary(self, sums: dict, class_names: tuple[str, ...]) -> dict:
        return metrics.summary(sums, class_names)

    def summary_lines(self, summary: dict) -> list[str]:
        return metrics.summary_lines(summary)

    def figures(self, sums: dict, examples: list[dict], class_names: tuple[str, ...]) -> dict:
        """The confusion matrix and the worst mistakes."""
        import matplotlib  # which loads slowly

        from cnnjax.tasks import figures as common
        from cnnjax.tasks.classification import figures

        with matplotlib.rc_context({"text.parse_math": False}):  # a class may be called $5
            return dict(
                confusion_matrix=common.confusion_matrix(sums["confusion"], class_names),
                worst_mistakes=figures.worst_mistakes(examples, class_names),
            )

    # --- Prediction ---------------------------------------------------------------------------------------------------

    def predictor(self, apply, network, record, config):
        """A function of images `[N, H, W, C]` as stored (uint8: 0..255) to probabilities `[N, K]`."""
        return predict.predictor(apply, record)

    def predicted(self, predictor, images: list[np.ndarray]) -> Iterable[np.ndarray]:
        """Of each image its probabilities `[K]`."""
        return predictor(np.stack(images)) if images else ()

    def writer(self, record, config, folder, flags):
        """Prints the most probable classes."""
        return predict.Writer(record.class_names, int(flags["top"]))

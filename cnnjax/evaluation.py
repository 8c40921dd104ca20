"""Scoring a network on a split: each example counts exactly once, whatever the batch size."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cnnjax import parallel
from cnnjax.data import pipeline
from cnnjax.data.source import Split


def evaluated_variables(model: dict[str, Any]) -> dict[str, Any]:
    """Flax variables for evaluation from `params`, `batch_stats` and `ema_params`: the moving average where there is one."""
    variables = dict(params=model["ema_params"] or model["params"])
    if model["batch_stats"]:
        variables["batch_stats"] = model["batch_stats"]
    return variables


def logits_of(network, variables: dict[str, Any], image: jax.Array) -> jax.Array:
    """What a network says of pictures `[B, H, W, C]` as stored; several views of a picture are merged as the task does."""
    image = network.view(dict(image=image))["image"]
    if image.ndim == 4:
        return network.model.apply(variables, image, train=False)
    batch, views = image.shape[:2]
    logits = network.model.apply(variables, image.reshape(batch * views, *image.shape[2:]), train=False)
    return network.task.merge_views(logits.reshape(batch, views, *logits.shape[1:]))


def eval_step_of(network, matmul_precision: str = "default", *, detailed: bool = True) -> Callable:
    """`eval_step(variables, batch) -> (sums, predictions)` of a network: its `model`, `task` and `view`.

    `detailed` sums make a summary; those that are not suffice for scores, and are small for any number of classes.
    """

    def eval_step(variables: dict[str, Any], batch: dict) -> tuple[dict, Any]:
        with jax.default_matmul_precision(matmul_precision):
            logits = logits_of(network, variables, batch["image"])
            return network.task.metrics(logits, batch, detailed), network.task.predictions(logits)

    return eval_step


def evaluate(
    eval_step: Callable,
    variables: dict[str, Any],
    split: Split,
    layout: parallel.Layout,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """The task's sums over a split, added up in float64. `eval_step` is compiled; `check()`, called at each batch, may raise."""
    totals: dict[str, np.ndarray] = {}
    for _, sums, _ in _outputs(eval_step, variables, split, layout, batch_size):
        check()
        sums = jax.device_get(sums)
        totals = {name: totals.get(name, 0) + np.asarray(value, np.float64) for name, value in sums.items()}
    return totals


def evaluate_with_mistakes(
    eval_step: Callable,
    variables: dict[str, Any],
    split: Split,
    layout: parallel.Layout,
    batch_size: int,
    worst: int = 24,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """As `evaluate`, and the wrongly classified examples to whose label the least probability was given, worst first.

    Each is a dict of `index` (place in the split), `image` `[H, W, C]` in [0, 1], `label`, `predicted`, `confidence`.
    """
    totals: dict[str, np.ndarray] = {}
    mistakes: list[tuple[float, int, dict]] = []
    for number, (batch, sums, probabilities) in enumerate(_outputs(eval_step, variables, split, layout, batch_size)):
        check()
        sums, probabilities = jax.device_get((sums, probabilities))
        totals = {name: totals.get(name, 0) + np.asarray(value, np.float64) for name, value in sums.items()}
        predicted = probabilities.argmax(-1)
        for row in np.flatnonzero((predicted != batch["label"]) & (batch["weight"] > 0)):
            label, index = int(batch["label"][row]), number * batch_size + int(row)
            entry = (-float(probabilities[row, label]), -index)
            if len(mistakes) < worst or entry > mistakes[0][:2]:
                image = batch["image"][row]
                scale = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
                example = dict(
                    index=index,
                    image=image.astype(np.float32) / scale,
                    label=label,
                    predicted=int(predicted[row]),
                    confidence=float(probabilities[row].max()),
                )
                (heapq.heappushpop if len(mistakes) == worst else heapq.heappush)(mistakes, (*entry, example))
    return totals, [example for _, _, example in sorted(mistakes, key=lambda m: m[:2], reverse=True)]


def _outputs(eval_step, variables, split, layout, batch_size) -> Iterator[tuple[dict, dict, Any]]:
    """Each batch (on the host) with its outputs (on the device), the next one already under way."""
    under_way = None
    batch_of = pipeline.EvaluationBatch(split, batch_size)
    with pipeline.batches(batch_of, 0, batch_of.count) as batches:
        for batch in batches:
            outputs = eval_step(variables, parallel.place(layout, batch))
            if under_way:
                yield under_way
            under_way = (batch, *outputs)
    if under_way:
        yield under_way

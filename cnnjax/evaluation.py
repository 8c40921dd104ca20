"""Scoring a network on a split: each example counts exactly once, whatever the batch size."""

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


def outputs_of(network, variables: dict[str, Any], x: jax.Array) -> Any:
    """What a network says of examples `[B, *spatial, C]` as stored; several views of one are merged as the task does."""
    x = network.view(x)
    batch, views = x.shape[:2]
    outputs = network.model.apply(variables, x.reshape(batch * views, *x.shape[2:]), train=False)
    if views == 1:
        return outputs
    return network.task.merge_views(jax.tree.map(lambda leaf: leaf.reshape(batch, views, *leaf.shape[1:]), outputs))


def eval_step_of(network, matmul_precision: str = "default", *, detailed: bool = True) -> Callable:
    """`eval_step(variables, batch) -> (sums, predictions)` of a network: its `model`, `task` and `view`.

    `detailed` sums make a summary; those that are not suffice for scores, and are small for any number of classes.
    """

    def eval_step(variables: dict[str, Any], batch: dict) -> tuple[dict, Any]:
        with jax.default_matmul_precision(matmul_precision):
            logits = outputs_of(network, variables, batch[network.key])
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
    """The task's sums over a split, added up in float64. `eval_step` is compiled; `check()`, called at each batch, may raise.

    Of several processes, each reads its own rows, and all have the sums of all.
    """
    totals: dict[str, np.ndarray] = {}
    rows = parallel.local_rows(layout, batch_size)
    for _, sums, _ in _outputs(eval_step, variables, split, layout, batch_size, rows, None):
        check()
        sums = jax.device_get(sums)
        totals = {name: totals.get(name, 0) + np.asarray(value, np.float64) for name, value in sums.items()}
    return totals


def evaluate_in_full(
    eval_step: Callable,
    variables: dict[str, Any],
    split: Split,
    layout: parallel.Layout,
    batch_size: int,
    task,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """As `evaluate`, and what the task finds by looking at each example: (sums, examples to show).

    Of several processes, each looks at every example.
    """
    totals: dict[str, np.ndarray] = {}
    rows = parallel.local_rows(layout, batch_size)

    def looked_at() -> Iterator[tuple[int, dict, np.ndarray]]:
        nonlocal totals
        outputs = _outputs(eval_step, variables, split, layout, batch_size, None, rows)
        for number, (batch, sums, predictions) in enumerate(outputs):
            check()
            sums, predictions = jax.device_get((sums, predictions))
            totals = {name: totals.get(name, 0) + np.asarray(value, np.float64) for name, value in sums.items()}
            yield number * batch_size, batch, predictions

    further, examples = task.look(looked_at())
    return totals | further, examples


def _outputs(eval_step, variables, split, layout, batch_size, read, kept) -> Iterator[tuple[dict, dict, Any]]:
    """Each batch (on the host) with its outputs (on the device), the next one already under way.

    `read` rows of a batch are read, and `kept` ones of these are this process's; None: all.
    """
    under_way = None
    batch_of = pipeline.EvaluationBatch(split, batch_size, read)
    with pipeline.batches(batch_of, 0, batch_of.count) as batches:
        for batch in batches:
            own = batch if kept is None else {name: array[kept] for name, array in batch.items()}
            outputs = eval_step(variables, parallel.place(layout, own))
            if under_way:
                yield under_way
            under_way = (batch, *outputs)
    if under_way:
        yield under_way

"""How good predicted labels are: sums over a batch, and the scores, intervals and tables that are made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

CALIBRATION_BINS = 15  # Guo et al. 2017, section 2


def metrics(outputs: jax.Array | dict, batch: dict, detailed: bool = False) -> dict[str, jax.Array]:
    """Sums over the batch: `count`, `loss` (cross-entropy, nats), `correct`, and `correct_top5` of more than five classes.

    Detailed ones besides: `confusion` `[K, K]` (row: label, column: prediction) and `calibration` `[15, 3]` (by confidence
    of the prediction: count, sum of confidences, number of right ones).
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    label, weight = batch["label"], batch["weight"]
    classes = logits.shape[-1]
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    predicted = logits.argmax(-1)
    right = (predicted == label) * weight
    sums = dict(
        count=weight.sum(),
        # A weight of zero hides padding even where its loss is not finite.
        loss=jnp.where(weight > 0, plain * weight, 0.0).sum(),
        correct=right.sum(),
    )
    if classes > 5:
        # How many classes have no smaller logit than the label's: ties count against the network, as do NaNs.
        own_logit = jnp.take_along_axis(logits, label[:, None], axis=-1)
        above = classes - (logits < own_logit).sum(-1) - 1
        sums["correct_top5"] = ((above < 5) * weight).sum()
    if detailed:
        confidence = jax.nn.softmax(logits).max(-1)
        bins = jnp.clip((confidence * CALIBRATION_BINS).astype(jnp.int32), 0, CALIBRATION_BINS - 1)
        rows = jnp.stack([weight, confidence * weight, right], axis=-1)
        sums["confusion"] = jnp.zeros((classes, classes)).at[label, predicted].add(weight)
        sums["calibration"] = jnp.zeros((CALIBRATION_BINS, 3)).at[bins].add(rows)
    return sums


def scores(sums: dict) -> dict[str, float]:
    """The means that sums stand for: loss (nats), accuracy and top-5 accuracy (fractions)."""
    count = max(float(sums["count"]), 1.0)
    result = dict(loss=float(sums["loss"]) / count, accuracy=float(sums["correct"]) / count)
    if "correct_top5" in sums:
        result["accuracy_top5"] = float(sums["correct_top5"]) / count
    return result


def wilson_interval(right: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927), which stays within 0 and 1 and is right for few errors."""
    if count == 0:
        return 0.0, 1.0
    p, shrink = right / count, 1 + z * z / count
    centre = (p + z * z / (2 * count)) / shrink
    half = z / shrink * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 5) from rows of count, sum of confidences, right ones."""
    count, confidence, right = np.asarray(bins, np.float64).T
    return float(np.abs(confidence - right).sum() / max(count.sum(), 1.0))


def summary(sums: dict, class_names: tuple[str, ...]) -> dict:
    """Scores with the accuracy's 95 % interval, the calibration error, and precision, recall and F1 of each class.

    The balanced accuracy is the mean recall of the classes that have examples (as scikit-learn's).
    A class that was never predicted has precision 0; one without examples, recall 0 (as scikit-learn with zero_division=0).
    """
    confusion = np.asarray(sums["confusion"], np.float64)
    right, label_count, predicted_count = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    divide = lambda a, b: np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    precision, recall = divide(right, predicted_count), divide(right, label_count)
    f1 = divide(2 * right, label_count + predicted_count)
    return dict(
        **scores(sums),
        accuracy_interval=list(wilson_interval(float(sums["correct"]), float(sums["count"]))),
        balanced_accuracy=float(recall[label_count > 0].mean()) if label_count.any() else 0.0,
        calibration_error=calibration_error(sums["calibration"]),
        examples=int(sums["count"]),
        classes=[
            dict(name=n, precision=float(p), recall=float(r), f1=float(f), examples=int(c))
            for n, p, r, f, c in zip(class_names, precision, recall, f1, label_count)
        ],
    )


def summary_lines(summary: dict, most: int = 20) -> list[str]:
    """The summary for a person; of many classes, those with the lowest F1."""
    low, high = summary["accuracy_interval"]
    lines = [
        f"accuracy {summary['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}, {summary['examples']} examples)",
        f"balanced accuracy {summary['balanced_accuracy']:.2%}, loss {summary['loss']:.4f}, calibration error {summary['calibration_error']:.4f}"
        + (f", top-5 accuracy {summary['accuracy_top5']:.2%}" if "accuracy_top5" in summary else ""),
    ]
    rows = summary["classes"]
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: row["f1"])[:most]
        lines.append(f"the {most} classes with the lowest F1 of {len(summary['classes'])}:")
    width = max(len("class"), *(len(row["name"]) for row in rows))
    lines.append(f"{'class':{width}}  precision  recall      F1  examples")
    for row in rows:
        lines.append(
            f"{row['name']:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['examples']:8d}"
        )
    return lines

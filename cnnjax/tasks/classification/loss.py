"""Cross-entropy of an example with a label, or with two after mixup or cutmix."""

import jax
import jax.numpy as jnp
import optax

AUXILIARY_WEIGHT = 0.3  # of the loss of each auxiliary head (Szegedy et al. 2015, section 5)


def cross_entropy(outputs: jax.Array | dict, batch: dict, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each example `[B]` in nats, with label smoothing (Szegedy et al. 2016, section 7).

    With a partner (mixup, cutmix) the mean of both labels' losses, weighted by their shares. Auxiliary heads add theirs.
    """
    if isinstance(outputs, dict):
        own, *others = (
            cross_entropy(head, batch, label_smoothing) for head in (outputs["logits"], *outputs["auxiliary"])
        )
        return own + AUXILIARY_WEIGHT * sum(others)
    logits = outputs

    def of(label):
        target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, target)

    own = of(batch["label"])
    if "partner_label" not in batch:
        return own
    return batch["share"] * own + (1 - batch["share"]) * of(batch["partner_label"])


def merge_views(logits: jax.Array) -> jax.Array:
    """Logits of several views of each image `[B, V, K]` -> of the image `[B, K]`: the mean of the probabilities.

    As in Krizhevsky et al. 2012, section 4.1. The result is the logarithm of that mean.
    """
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - jnp.log(logits.shape[1])

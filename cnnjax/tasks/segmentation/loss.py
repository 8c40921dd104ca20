"""Losses of pixels: cross-entropy, focal and Dice."""

import jax
import jax.numpy as jnp

from cnnjax.data.source import IGNORED
from cnnjax.tasks.segmentation.options import Options


def middle(x: jax.Array, height: int, width: int) -> jax.Array:
    """`[B, H, W]` -> its middle `[B, height, width]`."""
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def pixel_loss(options: Options, logits: jax.Array, batch: dict) -> jax.Array:
    """Of each example `[B]`, the weighted sum of three losses.

    - cross-entropy: -w c_k log p_k, the mean over all pixels, w the pixel's weight (Ronneberger et al. 2015, eq. 1) and
      c_k its class's; with label smoothing (Szegedy et al. 2016, section 7);
    - focal: the same times (1 - p_k)^gamma (Lin et al. 2017, eq. 5);
    - Dice: 1 - (2 sum p t + 1) / (sum p + sum t + 1), the mean over classes (Milletari et al. 2016, eq. 4, without the
      squares, and with 1 so that a class that neither has nor is given a pixel costs nothing).
    """
    o, (height, width, classes) = options, logits.shape[1:]
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
        smooth = (1 - o.label_smoothing) * own + o.label_smoothing * log_p.mean(-1)
        total += o.cross_entropy * -(weight * smooth).mean((1, 2))
    if o.focal:
        missing = jnp.maximum(1 - jnp.exp(own), 1e-6)  # a power of 0 may have no finite gradient
        total += o.focal * -(weight * missing**o.focal_gamma * own).mean((1, 2))
    if o.dice:
        p = jnp.exp(log_p) * counts[..., None]
        both, either = (p * target).sum((1, 2)), (p + target).sum((1, 2))
        total += o.dice * (1 - (2 * both + 1) / (either + 1)).mean(-1)
    return total

"""Units, or whole branches, that are left out at random while training."""

import flax.linen as nn
import jax

# Units are set to zero with probability `rate`, the others divided by 1 - rate (Srivastava et al. 2014).
Dropout = nn.Dropout


class StochasticDepth(nn.Module):
    """Leaves out a residual branch, for a whole example at a time, with probability `rate` (Huang et al. 2016).

    `[B, *spatial, C]`; the branches that stay are divided by 1 - rate.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        return nn.Dropout(self.rate, broadcast_dims=tuple(range(1, x.ndim)))(x, deterministic=deterministic)

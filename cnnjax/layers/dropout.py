"""Dropout (Srivastava et al. 2014): units are set to zero with probability `rate`, the others divided by 1 - rate."""

import flax.linen as nn

Dropout = nn.Dropout

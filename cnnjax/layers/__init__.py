"""The building blocks of networks. Models import every layer from here, so that each has one place where it can change.

Shapes are `[B, *spatial, C]`: spatial may have one, two or three dimensions.
"""

from cnnjax.layers.activation import ACTIVATIONS, GELU, ReLU, SiLU, Tanh, activation
from cnnjax.layers.convolution import Conv
from cnnjax.layers.dense import Dense, Flatten
from cnnjax.layers.dropout import Dropout
from cnnjax.layers.normalization import (
    GROUP_SIZE,
    NORMALIZATIONS,
    BatchNorm,
    GroupNorm,
    LayerNorm,
    batch_axis,
    normalization,
)
from cnnjax.layers.pooling import POOLINGS, AveragePool, GlobalAveragePool, MaxPool, pooling

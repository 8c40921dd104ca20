"""The building blocks of networks. Models import every layer from here, so that each has one place where it can change.

Shapes are `[B, *spatial, C]`: spatial may have one, two or three dimensions.
"""

from cnnjax.layers.activation import ACTIVATIONS, GELU, ReLU, ReLU6, Sigmoid, SiLU, Softmax, Tanh, activation
from cnnjax.layers.convolution import PADDING_MODES, Conv, ConvTranspose, InterpolateConv, LocallyConnected, he_normal
from cnnjax.layers.cropping import CentreCrop
from cnnjax.layers.dense import Dense, Flatten, at_least_float32
from cnnjax.layers.dropout import Dropout, StochasticDepth
from cnnjax.layers.layer_scale import LayerScale
from cnnjax.layers.normalization import (
    GROUP_SIZE,
    LOCAL_RESPONSE,
    NORMALIZATIONS,
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    batch_axis,
    normalization,
)
from cnnjax.layers.pooling import POOLINGS, AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool, pooling
from cnnjax.layers.squeeze_excite import SqueezeExcite
from cnnjax.layers.upsampling import Upsample

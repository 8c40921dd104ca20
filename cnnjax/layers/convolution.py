"""Convolutions over all input channels with weights shared by all positions."""

import flax.linen as nn

# One name for every convolution of the code base: 1-D to 3-D by the length of kernel_size; strides, padding
# ('SAME', 'VALID', or pairs), kernel_dilation and feature_group_count as in Flax.
Conv = nn.Conv

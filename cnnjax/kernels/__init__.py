"""The products that a CNN spends its time on, by the code that is fastest where they run.

`using(path)` says by which; what is traced outside it is plain XLA. Layers and the training step call these functions,
nothing else does.
"""

from cnnjax.kernels.bias import add_bias
from cnnjax.kernels.convolution import channels_last, conv_transpose, convolution
from cnnjax.kernels.dense import dense
from cnnjax.kernels.normalization import batch_norm
from cnnjax.kernels.paths import GPU, ONEDNN, PORTABLE, XLA, choose, current, using
from cnnjax.kernels.pooling import max_pool
from cnnjax.kernels.response_norm import local_response_norm
from cnnjax.kernels.square_sum import square_sum

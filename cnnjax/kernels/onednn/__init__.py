"""oneDNN behind XLA's custom calls: convolution, pooling and products on one CPU device (Linux on x86-64)."""

"""What has to be said to XLA before JAX starts."""

import importlib.metadata
import os

# Sums that these versions hand to YNNPACK on a CPU can be wrong, silently, or crash: github.com/jax-ml/jax issues 39103
# and 39257. An empty list of fusion types hands nothing over.
YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
FAULTY = ("0.10.2", "0.11.")


def without_faulty_sums() -> None:
    """Turns YNNPACK fusions off in the versions of jaxlib that need it, unless XLA_FLAGS already speaks of them."""
    flags = os.environ.get("XLA_FLAGS", "")
    if YNN_FLAG not in flags and importlib.metadata.version("jaxlib").startswith(FAULTY):
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}=".strip()

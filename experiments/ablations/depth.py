"""Depth and skip connections: plain against residual networks of 8 to 56 layers.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/depth.py --workdir=runs/depth --parallel=2

Budget: 20 minutes of 2 CPU cores. The networks of He et al. 2015, section 4.2, with half of their channels and shortcuts
without parameters, so that both have equally many, on pictures of 16x16. 'training loss' tells a network that does not
learn from one that learns by heart.
"""

import numpy as np

from cnnjax.sweeps.ablation import Sweep
from cnnjax.training.logbook import read_entries


def training_loss(workdir) -> dict[str, float]:
    losses = [entry["loss"] for entry in read_entries(workdir) if entry["split"] == "train"]
    return {"training loss": np.mean(losses[-5:])}  # of the last 100 steps


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/fashion_mnist.py:resnet20_cifar",
        hypothesis="Plain networks get worse with depth, also on what they are trained with; residual ones do not.",
        common={
            "model.width": 8,
            "model.stem_width": 8,
            "input.size": 16,
            "batch_size": 64,
            "steps": 800,
            "schedule.unit": "steps",
            "schedule.warmup": 50.0,
            "ema_decay": 0.0,
            "evaluate_every": 1.0,
            "checkpoint.test": "last",
        },
        factors={
            "network": {"residual": {"model.shortcut": "padding"}, "plain": {"model.shortcut": "none"}},
            "layers": {str(6 * n + 2): {"model.blocks": (n, n, n)} for n in (1, 3, 5, 9)},
        },
        grid=True,
        measure=training_loss,
        against="layers",
    )

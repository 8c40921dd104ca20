"""Large kernels or many layers, at the same field of view: one 7x7 convolution a stage against three 3x3; one 5x5 against two.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/kernel_size.py --workdir=runs/kernel_size --parallel=2

Budget: 15 minutes of 2 CPU cores.
"""

from cnnjax.sweeps.ablation import Sweep


def get_sweep() -> Sweep:
    stack = lambda side, number: {"model.kernel_size": side, "model.blocks": number}
    return Sweep(
        base="experiments/fashion_mnist.py",
        hypothesis="Several 3x3 convolutions see as far as one large one, with fewer parameters, and are more accurate.",
        common={
            "model.channels": (32, 32, 32),  # as many come in as go out, as in the reckoning of the VGG paper, 2.3
            "batch_size": 64,
            "steps": 2500,
            "schedule.warmup": 0.2,
            "ema_decay": 0.99,
            "checkpoint.test": "last",
        },
        factors=dict(
            stage={"three 3x3": stack(3, 3), "one 7x7": stack(7, 1), "two 3x3": stack(3, 2), "one 5x5": stack(5, 1)}
        ),
        seeds=(0, 1, 2),
    )

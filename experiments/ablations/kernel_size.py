"""Large kernels or many layers, at the same field of view: one 7x7 convolution a stage against three 3x3; one 5x5 against two.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/kernel_size.py --workdir=runs/kernel_size

Budget: 20 minutes of 2 CPU cores.
"""

from cnnjax.sweeps.ablation import Sweep


def get_sweep() -> Sweep:
    stack = lambda side, number: {"model.kernel_size": side, "model.blocks": number}
    return Sweep(
        base="experiments/fashion_mnist.py",
        hypothesis="Several 3x3 convolutions see as far as one large one, with fewer parameters, and are more accurate.",
        common={"model.channels": (16, 32, 64), "steps": 700, "evaluate_every": 1.0},
        factors=dict(
            stage={"three 3x3": stack(3, 3), "one 7x7": stack(7, 1), "two 3x3": stack(3, 2), "one 5x5": stack(5, 1)}
        ),
        seeds=(0, 1, 2),
    )

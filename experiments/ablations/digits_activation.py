"""What the non-linearity brings: a short run of the small CNN on the digits.

python run.py sweep --config=experiments/ablations/digits_activation.py --workdir=runs/activation --parallel=2

Budget: 3 minutes of 2 CPU cores.
"""

from cnnjax.sweeps.ablation import Sweep, values


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/digits.py",
        hypothesis="ReLU trains a small CNN to a higher accuracy than tanh or sigmoid in the same number of steps.",
        common={"steps": 200, "checkpoint.every_minutes": 0.2},
        factors=dict(activation=values("model.activation", "relu", "tanh", "sigmoid")),
        seeds=(0, 1, 2),
    )

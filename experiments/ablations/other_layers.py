"""What the other layers bring, one at a time: the non-linearity, normalisation, dropout, augmentation.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/other_layers.py --workdir=runs/other_layers

Budget: 30 minutes of 2 CPU cores. In so short a run dropout and augmentation, which fight overfitting, have little to do.
"""

from cnnjax.sweeps.ablation import Sweep, values


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/fashion_mnist.py",
        hypothesis="ReLU, normalisation, dropout and augmentation each make a CNN more accurate.",
        common={"model.channels": (16, 32, 64), "steps": 700, "evaluate_every": 1.0},
        factors=dict(
            activation=values("model.activation", "relu", "tanh", "sigmoid"),
            normalization=values("model.normalization", "batch", "group", "none"),
            dropout=values("model.dropout", 0.0, 0.3),
            flip=values("augmentation.flip", True, False),
        ),
        seeds=(0, 1, 2),
    )

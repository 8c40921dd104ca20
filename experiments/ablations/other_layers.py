"""What the other layers bring, each added alone: the non-linearity, normalisation, dropout, input.augmentation.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/other_layers.py --workdir=runs/other_layers --parallel=2

Budget: 20 minutes of 2 CPU cores. A tenth of the training pictures, each seen some 20 times: there is something to learn by
heart.
"""

from cnnjax.sweeps.ablation import Sweep, values


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/fashion_mnist.py",
        hypothesis="ReLU, normalisation within and across channels, dropout and augmentation each make a CNN more accurate.",
        common={
            "data.train": "train[:10%]",
            "model.channels": (16, 32, 64),
            "model.hidden": (128,),
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 1e-3,
            "steps": 900,
            "ema_decay": 0.99,
            "evaluate_every": 10.0,
            "checkpoint.test": "last",
        },
        factors=dict(
            activation=values("model.activation", "relu", "tanh", "sigmoid"),
            normalization=values("model.normalization", "none", "local_response", "batch"),
            dropout=values("model.dropout", 0.0, 0.5),
            augmentation={
                "none": {"input.augmentation.flip": False},
                "flip": {"input.augmentation.flip": True},
                "flip and shift": {"input.augmentation.flip": True, "input.augmentation.pad_and_crop": 2},
            },
        ),
    )

"""Weight sharing and local connections: convolution, locally connected, fully connected, at equal layer sizes.

python run.py prepare --config=experiments/fashion_mnist.py
python run.py sweep --config=experiments/ablations/weight_sharing.py --workdir=runs/weight_sharing --parallel=2

Budget: 10 minutes of 2 CPU cores. All have 14x14x8, 7x7x16, 4x4x32 and 64 units, as LeCun 1989, "Generalization and network
design strategies", compares networks.
"""

from cnnjax.sweeps.ablation import Sweep, values


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/fashion_mnist.py",
        hypothesis="Local connections generalise better than full ones and shared weights best, most so from few pictures.",
        common={
            "model.channels": (8, 16, 32),
            "model.blocks": 1,
            "input.size": 14,
            "model.downsampling": "stride",
            "model.hidden": (64,),
            "model.normalization": "none",
            "input.augmentation.flip": False,
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 2e-3,
            "schedule.warmup": 0.0,
            "ema_decay": 0.0,
            "batch_size": 64,
            "steps": 2500,
            "data.validation_fraction": 0.0,  # no choice is made by it, and training pictures are what is counted
            "checkpoint.test": "last",
        },
        factors={
            "connections": values("model.connections", "shared", "local", "full"),
            "training pictures": {
                "600": {"data.train": "train[:1%]"},
                "6000": {"data.train": "train[:10%]"},
                "60000": {"data.train": "train"},
            },
        },
        grid=True,
        against="training pictures",
    )

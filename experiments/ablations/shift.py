"""Trained on centred digits, tested on shifted ones: convolution, global pooling and shifted training pictures.

python run.py sweep --config=experiments/ablations/shift.py --workdir=runs/shift --parallel=2

Budget: 6 minutes of 2 CPU cores. 'shift N' is the accuracy on test pictures moved by N of their 8 pixels to the right.
"""

import numpy as np

import cnnjax
from cnnjax.experiment import open_data
from cnnjax.sweeps.ablation import Sweep


def accuracies(workdir) -> dict[str, float]:
    run = cnnjax.load(workdir)
    test = open_data(run.config).split("test")
    batch, predict = test.read(np.arange(test.size)), cnnjax.predictor(run)
    moved = lambda n: np.pad(batch["image"], [(0, 0), (0, 0), (n, 0), (0, 0)])[:, :, : batch["image"].shape[2]]
    return {f"shift {n}": (predict(moved(n)).argmax(-1) == batch["label"]).mean() for n in range(5)}


def get_sweep() -> Sweep:
    dense = {"model.channels": (1,), "model.blocks": 1, "model.kernel_size": 1, "model.hidden": (256, 128)}
    return Sweep(
        base="experiments/digits.py",
        hypothesis="A CNN with global pooling bears shifts that a dense network does not; shifted pictures teach both.",
        common={
            "steps": 600,
            "input.augmentation.rotation": 0.0,
            "input.augmentation.shear": 0.0,
            "input.augmentation.scale": 0.0,
        },
        factors={
            "network": {"CNN, global pooling": {}, "CNN, flattened": {"model.hidden": (128,)}, "dense": dense},
            "training pictures": {
                "centred": {"input.augmentation.shift": 0.0},
                "shifted": {"input.augmentation.shift": 0.35},
            },
        },
        grid=True,
        measure=accuracies,
        against="shift",
    )

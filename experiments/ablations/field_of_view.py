"""How to widen the field of view, at equal depth: stride, max pooling, average pooling, dilation; or not at all.

python run.py sweep --config=experiments/ablations/field_of_view.py --workdir=runs/field_of_view --parallel=2

Budget: 20 minutes of 2 CPU cores. Which of two digits stands on the left can only be seen by who sees both at once
(cnnjax/data/digit_pairs.py). All networks have six 3x3 convolutions of 16 channels, thus equally many parameters; they are
widened after three of them, or after two and after four.
"""

from cnnjax.sweeps.ablation import Sweep, values


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/digits.py",
        hypothesis="What lies further apart than the field of view is wide cannot be related, however it is widened.",
        common={
            "source": "digit_pairs",
            "input.augmentation.rotation": 0.0,
            "input.augmentation.shear": 0.0,
            "input.augmentation.scale": 0.0,
            "input.augmentation.shift": 0.0,
            "model.dropout": 0.0,
            "steps": 800,
        },
        factors={
            "widened by": values("model.downsampling", "none", "dilation", "stride", "max", "average"),
            "times": {
                "once": {"model.channels": (16, 16), "model.blocks": 3},
                "twice": {"model.channels": (16, 16, 16), "model.blocks": 2},
            },
        },
        grid=True,
        against="field_of_view",
    )

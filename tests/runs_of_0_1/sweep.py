from cnnjax.sweeps.ablation import Sweep, values


def get_sweep():
    return Sweep(
        base="experiments/digits.py",
        hypothesis="A larger rate learns sooner.",
        seeds=(0,),
        common={"steps": 8, "model.channels": (4,), "model.blocks": 1, "kernels": "xla", "label_smoothing": 0.1},
        factors=dict(rate=values("optimizer.learning_rate", 1e-3, 4e-3)),
    )

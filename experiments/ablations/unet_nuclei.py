"""What a U-Net's parts bring on nuclei, one at a time: skip connections, up-sampling, elastic deformation, border weights.

python run.py sweep --config=experiments/ablations/unet_nuclei.py --workdir=runs/unet_nuclei --parallel=2

Budget: 20 minutes of 2 CPU cores. The data lie where experiments/nuclei.py says. 'nuclei IoU' is that of their pixels,
'nuclei F1' of whole nuclei found with an IoU of at least 0.5.
"""

import json

from cnnjax.sweeps.ablation import Sweep, values


def scores(workdir) -> dict[str, float]:
    summary = json.loads((workdir / "summary.json").read_text())
    return {"nuclei IoU": summary["classes"][1]["iou"], "nuclei F1": summary["objects"]["f1"]}


def get_sweep() -> Sweep:
    return Sweep(
        base="experiments/nuclei.py",
        hypothesis="Skip connections, elastic deformation and border weights help; how the resolution is doubled does not matter.",
        common={
            "model.base": 8,
            "steps": 500,
            "schedule.unit": "steps",
            "schedule.warmup": 50.0,
            "ema_decay": 0.99,
            "evaluate_every": 2.0,
            "checkpoint.test": "last",
        },
        factors={
            "skip": values("model.skip", "concatenate", "none"),
            "up": values("model.up", "transpose", "interpolate"),
            "elastic": values("input.augmentation.elastic", 0.0, 6.0),
            "border weight": values("task.border_weight", 5.0, 0.0),
        },
        score="mean_iou",
        measure=scores,
    )

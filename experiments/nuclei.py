"""Nuclei in microscopy of several kinds (Data Science Bowl 2018; Caicedo et al. 2019) by a U-Net, sized for a CPU.

The pictures lie in $CNNJAX_DATA_DIR/dsb2018_nuclei/images and their objects, numbered in 16-bit PNGs of the same names, in
.../instances_u16. Test: the 129 whose names begin with 0, 1 or 2.

python run.py train --config=experiments/nuclei.py --workdir=runs/nuclei

On 2 CPU cores 11 to 22 minutes. Test, mean of 3 seeds: foreground IoU 0.854 (0.849 to 0.858), Dice 0.921, F1 of objects at
IoU 0.5 0.798.
"""

import os

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="unet", task="segmentation", source="mask_folder")
    config.model.base, config.model.depth, config.model.normalization = 16, 3, "batch"

    folder = os.path.join(os.environ.get("CNNJAX_DATA_DIR", "data"), "dsb2018_nuclei")
    config.source.dir = os.path.join(folder, "images")
    config.source.masks, config.source.mask_kind = os.path.join(folder, "instances_u16"), "instances"
    config.source.test_files = "0*,1*,2*"

    config.task.crop = 128
    config.task.border_weight, config.task.dice = 5.0, 0.5
    config.task.smallest_object = 15
    config.input.augmentation.flip = config.input.augmentation.quarter_turns = True
    config.input.augmentation.scale, config.input.augmentation.brightness, config.input.augmentation.contrast = (
        0.25,
        0.2,
        0.2,
    )

    config.batch_size, config.steps, config.evaluate_every = 8, 5000, 2.0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
    config.optimizer.weight_decay = 1e-2
    config.schedule.warmup = 0.5
    config.ema_decay = 0.998
    config.checkpoint.best_metric = "mean_iou"
    return config

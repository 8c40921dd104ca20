"""A U-Net on your own pictures with masks: see "A class for every pixel" in the README for how to lay them out.

python run.py train --config=experiments/folder_unet.py --config.source.dir=CELLS --workdir=runs/cells
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="unet", task="segmentation", source="mask_folder")
    config.model.base, config.model.depth, config.model.normalization = 16, 3, "batch"

    config.task.crop, config.task.border_weight, config.task.dice = 128, 5.0, 0.5
    config.input.augmentation.flip = config.input.augmentation.flip_vertical = True
    config.input.augmentation.brightness = config.input.augmentation.contrast = 0.2

    # In steps, since an epoch may be a few of them or thousands, as pictures are small and few or large and many.
    config.batch_size, config.steps = 8, 2000
    config.evaluate_every, config.evaluate_unit = 200, "steps"
    config.schedule.warmup, config.schedule.unit = 50, "steps"
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
    config.optimizer.weight_decay = 1e-2
    config.ema_decay = 0.995
    config.checkpoint.best_metric = "mean_iou"
    return config

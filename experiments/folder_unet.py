"""A U-Net on your own pictures with masks: see "A class for every pixel" in the README for how to lay them out.

python run.py train --config=experiments/folder_unet.py --config.data.data_dir=CELLS --workdir=runs/cells
"""

from cnnjax import models
from cnnjax.config import Config


def get_config() -> Config:
    config = Config(model=models.options("unet"), task="segmentation")
    config.model.base, config.model.depth, config.model.normalization = 16, 3, "batch"
    config.data.name = "folder"

    config.segmentation.crop, config.segmentation.border_weight, config.segmentation.dice = 128, 5.0, 0.5
    config.augmentation.flip = config.augmentation.flip_vertical = True
    config.augmentation.brightness = config.augmentation.contrast = 0.2

    config.batch_size, config.steps, config.evaluate_every = 8, 2000, 2.0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
    config.optimizer.weight_decay, config.schedule.warmup = 1e-2, 0.5
    config.ema_decay = 0.995
    config.checkpoint.best_metric = "mean_iou"
    return config

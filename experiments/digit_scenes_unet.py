"""A small U-Net that finds and names handwritten digits on a larger canvas, pixel by pixel. No data to fetch.

python run.py train --config=experiments/digit_scenes_unet.py --workdir=runs/digit_scenes

On 2 CPU cores 2 minutes, compilation included. Test, seed 0: mean IoU 0.828, F1 of digits found 0.915.
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="unet", task="segmentation", source="digit_scenes")
    config.model.base, config.model.depth, config.model.normalization = 16, 3, "batch"
    config.task.crop, config.task.dice = 64, 0.5

    config.batch_size, config.epochs = 16, 30
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 3e-3
    config.optimizer.weight_decay = 1e-2
    config.schedule.warmup = 0.5
    config.checkpoint.best_metric = "mean_iou"
    return config

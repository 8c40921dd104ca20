"""Membranes of neurons in electron microscopy (ISBI 2012; Arganda-Carreras et al. 2015) by a U-Net, sized for a CPU.

The slices lie in $CNNJAX_DATA_DIR/isbi2012_em/train/image, their masks (255 cell, 0 membrane) in .../train/label. The
challenge never published its test masks: slices 24 to 29 are test here.

python run.py train --config=experiments/em_membranes.py --workdir=runs/em_membranes

On 2 CPU cores 4 minutes. Test, mean of 3 seeds: pixel error 7.8 %, Rand F-score of cells 0.835 (0.788 to 0.859); seed 0 with
6,000 steps: 7.7 % and 0.876.
"""

import os

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="unet", task="segmentation", source="mask_folder")
    config.model.base, config.model.depth, config.model.normalization = 16, 3, "batch"

    folder = os.path.join(os.environ.get("CNNJAX_DATA_DIR", "data"), "isbi2012_em", "train")
    config.source.dir = os.path.join(folder, "image")
    config.source.masks, config.source.mask_kind = os.path.join(folder, "label"), "binary"
    config.source.test_files = "2[4-9].png"

    config.task.crop, config.task.objects = 128, "parts"
    config.input.augmentation.flip = config.input.augmentation.quarter_turns = True
    config.input.augmentation.elastic, config.input.augmentation.brightness, config.input.augmentation.contrast = (
        6.0,
        0.1,
        0.2,
    )

    config.batch_size, config.steps, config.evaluate_every = 8, 2000, 10.0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
    config.optimizer.weight_decay = 1e-2
    config.schedule.warmup = 5.0
    config.ema_decay = 0.998
    config.checkpoint.best_metric = "mean_iou"
    return config

"""A person's own pictures: DIR/{train,test}/{class}/*.png, or DIR/{class}/*.png to be split.

python run.py train --config=experiments/folder.py --config.source.dir=DIR --workdir=runs/mine
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="cnn", source="class_folder")
    config.model.channels, config.model.blocks, config.model.dropout = (16, 32, 64, 128), 1, 0.2

    config.input.size = 96
    config.input.augmentation.flip = True
    config.input.augmentation.rotation, config.input.augmentation.scale, config.input.augmentation.shift = (
        10.0,
        0.1,
        0.1,
    )
    config.input.augmentation.brightness = config.input.augmentation.contrast = config.input.augmentation.saturation = (
        0.2
    )

    config.batch_size, config.epochs = 32, 30
    config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay = "adamw", 2e-3, 0.02
    config.schedule.name = "one_cycle"
    return config

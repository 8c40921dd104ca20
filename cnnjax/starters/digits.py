"""A small CNN on the 1,797 handwritten digits that come with cnnjax: no data and no network needed.

cnnjax train --config=digits --workdir=runs/digits

On 2 CPU cores 19 to 26 s, compilation included. Test accuracy: 99.0 % (mean of 5 seeds, 98.6 to 99.2).
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="cnn")
    config.model.channels, config.model.blocks, config.model.dropout = (48, 96), 2, 0.2

    config.input.augmentation.rotation, config.input.augmentation.shear = 12.0, 8.0  # degrees
    config.input.augmentation.scale, config.input.augmentation.shift = 0.12, 0.1

    config.batch_size, config.epochs, config.evaluate_every = 64, 80, 10
    config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay = "adamw", 2e-3, 0.02
    config.schedule.name = "one_cycle"
    config.ema_decay = 0.99

    # So few examples are needed for training; those left for validation are too few to choose a checkpoint by.
    config.data.validation_fraction, config.checkpoint.test = 0.05, "last"
    return config

"""A stronger recipe for Fashion-MNIST, for a GPU: wider and deeper, 100 epochs, mixed pictures, bfloat16.

    python run.py train --config=experiments/fashion_mnist_gpu.py --workdir=runs/fashion_mnist_gpu

Aims at 95.5 % test accuracy. Not measured on a GPU yet.
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config


def get_config() -> Config:
    config = new_config(model="cnn", source="tfds")
    config.model.channels, config.model.blocks, config.model.dropout = (64, 128, 256), 3, 0.2

    config.source.set, config.data.placement = "fashion_mnist", "device"
    config.input.augmentation.pad_and_crop, config.input.augmentation.flip = 2, True
    config.input.augmentation.cutout, config.input.augmentation.cutmix = 8, 1.0

    config.batch_size, config.epochs, config.dtype = 256, 100, "bfloat16"
    config.optimizer.learning_rate, config.optimizer.weight_decay = 0.2, 5e-4
    config.schedule.name, config.schedule.warmup = "cosine", 5.0
    config.task.label_smoothing, config.ema_decay = 0.05, 0.9995
    return config

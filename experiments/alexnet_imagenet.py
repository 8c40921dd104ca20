"""AlexNet with its recipe (Krizhevsky, Sutskever & Hinton 2012), on ImageNet, and in a small form on blood cells.

python run.py train --config=experiments/alexnet_imagenet.py --workdir=runs/alexnet
python run.py train --config=experiments/alexnet_imagenet.py:cells --workdir=runs/alexnet_cells

The first reads tfds's imagenet2012 (python run.py prepare --config=... says how it is prepared) and wants a GPU; the paper
reports 18.2 % top-5 error of one such network (table 2), after 90 epochs. Not run here: the data are not at hand.

The second takes a quarter of the channels and cells cut out of BCCD's pictures by their boxes, 85 % of them red ones:

python experiments/data/cells.py --voc=DIR/bccd --out=data/bccd_cells

On 2 CPU cores an hour beside other work. Test: balanced accuracy 98.5 %, accuracy 99.6 % (seed 0); the learning rate fell
after steps 396 and 462 of 548.

The recipe: pictures of 256x256 less their mean, in 0..255, the scale that the learning rate assumes; crops of 227x227,
reflections and PCA colour noise; batch 128, momentum 0.9, weight decay 5e-4 on everything, learning rate 0.01 divided by 10
when validation no longer improves; N(0, 0.01) weights, biases of 1 in conv2, conv4, conv5, fc6 and fc7; ten crops in the end.
"""

from cnnjax.config import Config
from cnnjax.serialization import new_config

WIDTH = 1 / 4  # of the cells' network


def get_config(data: str = "imagenet") -> Config:
    config = new_config(model="alexnet", source="class_folder" if data == "cells" else "tfds")
    config.input.size, config.input.normalization = 256, "mean"
    config.input.augmentation.random_crop, config.input.augmentation.flip = 227, True
    config.input.augmentation.pca_noise, config.input.augmentation.views = 0.1, "ten_crop"
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.01
    config.optimizer.momentum, config.optimizer.nesterov = 0.9, False
    config.optimizer.weight_decay, config.optimizer.decay_all = 5e-4, True
    config.schedule.name, config.schedule.factor = "plateau", 0.1
    config.batch_size, config.epochs = 128, 90.0
    if data == "cells":
        config.source.dir = "data/bccd_cells"
        config.model.width, config.model.hidden = WIDTH, round(4096 * WIDTH)
        # A quarter of the inputs to each unit: its sum varies as in the paper with twice the deviation.
        config.model.init_std = 0.01 / WIDTH**0.5
        config.epochs, config.schedule.patience = 25.0, 3
        config.checkpoint.best_metric = "loss"  # 85 % are right for a network that only knows the commonest class
    else:
        config.source.set = "imagenet2012"
        config.data.train, config.data.validation, config.data.test = "train[:99%]", "train[99%:]", "validation"
        config.schedule.patience = 5
    return config

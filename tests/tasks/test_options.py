"""What an experiment may say of its task."""

import pytest

from cnnjax import experiment, tasks
from cnnjax.errors import UserError
from cnnjax.inputs.images.options import Augmentation
from cnnjax.serialization import new_config


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(random_crop=8), "random_crop is for one class an image"),
        (dict(random_resized_crop=8), "random_resized_crop is for"),
        (dict(pad_and_crop=2), "pad_and_crop is for"),
        (dict(mixup=0.2), "mixup mixes labels of whole images"),
        (dict(cutmix=1.0), "cutmix mixes"),
        (dict(random_crop=8, views="ten_crop"), "random_crop is for"),
        (dict(views="ten_crop"), "views=ten_crop is for"),
    ],
)
def test_what_has_no_meaning_for_masks_is_refused(options, says):
    config = new_config(model="unet", task="segmentation")
    config.input.augmentation = Augmentation(**options)
    with pytest.raises(UserError, match=says):
        config.task.check(config)
    config.input.augmentation = Augmentation(flip=True, cutout=4, elastic=3.0)
    config.task.check(config)


@pytest.mark.parametrize(
    "model, task, best", [("cnn", "classification", "accuracy"), ("unet", "segmentation", "mean_iou")]
)
def test_the_best_checkpoint_has_the_first_of_the_tasks_scores(model, task, best):
    config = new_config(model=model, task=task)
    assert config.checkpoint.best_metric == ""
    experiment.check(config)
    assert config.checkpoint.best_metric == best and experiment.higher_is_better(config)
    config.checkpoint.best_metric = "loss"
    assert not experiment.higher_is_better(config)


def test_a_score_of_another_task_is_refused():
    config = new_config()
    config.checkpoint.best_metric = "mean_iou"
    with pytest.raises(UserError, match="best_metric=mean_iou is no score of classification: take accuracy or loss"):
        experiment.check(config)


def test_a_task_is_found_by_its_name_alone():
    with pytest.raises(UserError, match="There is no task 'segment'. Did you mean segmentation?"):
        tasks.options("segment")
    config = new_config()
    config.task = "segmentation"
    with pytest.raises(UserError, match="config.task must hold the options of a task"):
        experiment.check(config)


def test_options_are_copies():
    tasks.options("classification").label_smoothing = 0.5
    assert tasks.options("classification").label_smoothing == 0.0

"""What evaluation sees of a picture, and how views of it are merged."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnnjax import evaluation, experiment, serialization, tasks
from cnnjax.data.source import Split
from cnnjax.errors import UserError
from cnnjax.experiment import Network
from cnnjax.inputs.images import augmentation
from cnnjax.inputs.images.images import normalize
from cnnjax.inputs.images.options import Augmentation
from cnnjax.inputs.images.statistics import Statistics

STATISTICS = Statistics(np.float32([0.2, 0.4, 0.6]), np.float32([0.1, 0.2, 0.3]), np.eye(3, dtype=np.float32))


@pytest.mark.parametrize(
    "how, expected",
    [
        ("dataset", [(1 - 0.2) / 0.1, (1 - 0.4) / 0.2, (1 - 0.6) / 0.3]),
        ("unit", [1, 1, 1]),
        ("mean", [255 - 51, 255 - 102, 255 - 153]),
        ("none", [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 10, 4, 4, 3)])
def test_normalisation_by_hand(how, expected, shape):
    image = normalize(jnp.ones(shape), STATISTICS, how)
    np.testing.assert_allclose(image, np.broadcast_to(np.array(expected, np.float32), shape), rtol=1e-5)


class TopLeft(nn.Module):
    """Logits made of the first pixel."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return x[:, 0, 0, :]


def test_ten_views_of_a_picture_become_one_prediction():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    options = Augmentation(random_crop=4, views="ten_crop")
    view = lambda image: augmentation.evaluation_view(image, options)
    network = Network(TopLeft(), tasks.options("classification").build(), view, (4, 4, 3), "image")
    logits = evaluation.outputs_of(network, {}, jnp.asarray(image))
    # The first pixels of the four corners and the middle, and of their mirror images.
    places = [(y, x) for y, x in [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]]
    firsts = [image[:, y, x] for y, x in places] + [image[:, y, x + 3] for y, x in places]
    mean = np.mean([scipy.special.softmax(f / 255, axis=-1) for f in firsts], axis=0)
    np.testing.assert_allclose(np.exp(logits), mean, rtol=1e-5)


def test_ten_crops_need_a_size():
    config = serialization.new_config()
    config.input.augmentation.views = "ten_crop"
    with pytest.raises(UserError, match="ten_crop takes crops as large as random_crop"):
        experiment.check(config)


def test_the_moving_average_is_what_is_evaluated():
    model = dict(params="last", ema_params="average", batch_stats="statistics")
    assert evaluation.evaluated_variables(model) == dict(params="average", batch_stats="statistics")
    assert evaluation.evaluated_variables(model | dict(ema_params={}, batch_stats={})) == dict(params="last")


def test_a_process_computes_its_own_rows_of_a_batch_that_it_reads_whole(monkeypatch):
    split = Split(7, lambda indices: dict(label=np.asarray(indices, np.int32)))
    monkeypatch.setattr(evaluation.parallel, "place", lambda layout, batch: batch)
    computed = lambda variables, batch: (batch["label"], batch["weight"])
    outputs = list(evaluation._outputs(computed, {}, split, None, 4, None, np.array([1, 3])))
    assert [batch["label"].tolist() for batch, _, _ in outputs] == [[0, 1, 2, 3], [4, 5, 6, 6]]
    assert [(own.tolist(), weight.tolist()) for _, own, weight in outputs] == [([1, 3], [1, 1]), ([5, 6], [1, 0])]

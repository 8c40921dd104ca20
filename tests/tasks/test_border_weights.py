"""Border weights against the formula, object by object over the whole picture."""

import numpy as np
import pytest
from scipy import ndimage

from cnnjax.data import pipeline
from cnnjax.data.source import IGNORED, Scenes
from cnnjax.tasks.segmentation import border_weights as bw

RANDOM = np.random.default_rng(1)


def discs(size=60, count=9):
    labels = np.zeros((size, size + 7), np.uint16)
    rows, columns = np.indices(labels.shape)
    for number in range(1, count + 1):
        row, column, radius = *RANDOM.integers(0, size, 2), RANDOM.integers(3, 9)
        labels[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 3 * number
    return labels


def by_the_formula(instances, w0, sigma):
    mask = bw.separated(instances)
    labels = np.where(mask, instances, 0)
    distances = [ndimage.distance_transform_edt(labels != n) for n in np.unique(labels[labels > 0])]
    if len(distances) < 2:
        return np.zeros(labels.shape)
    d1, d2 = np.sort(distances, 0)[:2]
    return np.where(mask, 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))


def test_touching_objects_are_parted_by_one_pixel():
    labels = np.zeros((5, 8), np.uint16)
    labels[1:4, 1:4], labels[1:4, 4:7] = 5, 2
    mask = bw.separated(labels)
    np.testing.assert_array_equal(mask[2], [0, 1, 1, 0, 1, 1, 1, 0])  # 5 gives way to 2
    assert mask.sum() == 18 - 3
    corner = np.zeros((4, 4), np.uint16)
    corner[:2, :2], corner[2:, 2:] = 1, 2
    assert bw.separated(corner).sum() == 7  # a corner alone


def test_objects_that_do_not_touch_stay_as_they_are():
    labels = np.zeros((6, 9), np.uint16)
    labels[1:5, 1:4], labels[1:5, 5:8] = 1, 2
    np.testing.assert_array_equal(bw.separated(labels), labels > 0)


@pytest.mark.parametrize("trial", range(6))
def test_parts_are_never_connected(trial):
    labels = discs()
    parts, _ = ndimage.label(bw.separated(labels), np.ones((3, 3)))
    for part in range(1, parts.max() + 1):
        assert len(np.unique(labels[parts == part])) == 1


@pytest.mark.parametrize("sigma", [1.0, 2.5, 5.0])
def test_the_formula(sigma):
    labels = discs()
    found, wanted = bw.border_weights(labels, 10.0, sigma), by_the_formula(labels, 10.0, sigma)
    assert found.dtype == np.float32 and wanted.max() > 1
    np.testing.assert_allclose(found, wanted, atol=10 * np.exp(-(bw.REACH**2) / 2) + 1e-4)


def test_two_columns_by_hand():
    labels = np.zeros((9, 10), np.uint16)
    labels[:, :3], labels[:, 5:] = 1, 2  # two columns between: distances 1 and 2
    weights = bw.border_weights(labels, 10.0, 5.0)
    np.testing.assert_allclose(weights[4, 3:5], 10 * np.exp(-9 / 50), rtol=1e-6)
    assert weights[:, :3].max() == weights[:, 5:].max() == 0


@pytest.mark.parametrize(
    "labels", [np.zeros((5, 5), np.uint16), np.ones((5, 5), np.uint16), np.ones((1, 1), np.uint16)]
)
def test_with_fewer_than_two_objects_there_is_no_border(labels):
    assert bw.border_weights(labels, 10.0, 5.0).max() == 0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path))
    return tmp_path / "border_weights"


def test_the_cache_is_believed_only_when_whole(cache, monkeypatch):
    labels = discs()
    wanted = bw.border_weights(labels, 10.0, 3.0)
    np.testing.assert_allclose(bw.cached_border_weights(labels, 10.0, 3.0), wanted, rtol=1e-3, atol=1e-6)
    calls = []
    monkeypatch.setattr(bw, "border_weights", lambda *a: calls.append(a) or np.zeros(labels.shape))
    np.testing.assert_allclose(bw.cached_border_weights(labels, 5.0, 3.0), wanted / 2, rtol=1e-3, atol=1e-6)
    assert not calls and len(list(cache.iterdir())) == 1
    bw.cached_border_weights(labels, 10.0, 4.0)  # another width
    assert len(calls) == 1
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    bw.cached_border_weights(labels, 10.0, 3.0)
    assert len(calls) == 2


def test_scenes_to_train_on(cache):
    labels = discs()
    mask = (labels > 0).astype(np.uint8)
    mask[0, :5] = IGNORED
    image = np.zeros((*labels.shape, 1), np.uint8)
    scenes = Scenes(np.array([labels.shape]), ("a",), lambda i: dict(image=image, mask=mask, instances=labels))
    heavier = bw.weighted(pipeline.in_memory(scenes), 10.0, 3.0)
    assert pipeline.is_held(heavier)
    scene = heavier.read(0)
    np.testing.assert_allclose(scene["pixel_weight"], 1 + by_the_formula(labels, 10.0, 3.0), rtol=1e-3, atol=5e-3)
    np.testing.assert_array_equal(scene["mask"][1:], bw.separated(labels)[1:])
    assert (scene["mask"][0, :5] == IGNORED).all()
    plain = Scenes(np.array([labels.shape]), ("a",), lambda i: dict(image=image, mask=mask))
    assert "pixel_weight" not in bw.weighted(plain, 10.0, 3.0).read(0)


@pytest.mark.parametrize("at", [0, 28, 50, 110, 170, -30])
def test_a_damaged_cache_is_written_anew(cache, at):
    labels = discs()
    wanted = bw.cached_border_weights(labels, 10.0, 3.0)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[at : at + 4] = b"\x55\xaa\x55\xaa"
    file.write_bytes(bytes(damaged))
    np.testing.assert_array_equal(bw.cached_border_weights(labels, 10.0, 3.0), wanted)
    with np.load(file) as stored:
        np.testing.assert_array_equal(10 * stored["weights"].astype(np.float32), wanted)


def test_without_a_cache_it_takes_longer(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "file"))
    labels = discs()
    wanted = bw.border_weights(labels, 10.0, 3.0)
    np.testing.assert_allclose(bw.cached_border_weights(labels, 10.0, 3.0), wanted, rtol=1e-3, atol=1e-6)

"""The digits that scikit-learn carries, as a set of tfds."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnnjax.data import digits
from cnnjax.errors import UserError
from tests.data.sets import opened, options


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tfds"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("The network was asked for something.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_examples_are_those_of_scikit_learn_in_their_order(no_network, capfd):
    dataset = opened(options.Digits())
    assert dataset.split_sizes == dict(train=898, test=899)
    assert dataset.image_shape == (8, 8, 1) and dataset.dtype == np.uint8
    assert dataset.class_names == tuple("0123456789")
    both = dataset.split("train+test")
    batch = both.read(np.arange(both.size))
    expected = load_digits()
    np.testing.assert_array_equal(batch["image"][..., 0], expected.images * 15)
    np.testing.assert_array_equal(batch["label"], expected.target)
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    assert capfd.readouterr() == ("", "")


def test_split_is_that_of_the_published_example():
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(1797), test_size=0.5, shuffle=False)
    assert (len(train), len(test)) == (digits.TRAIN_SIZE, 1797 - digits.TRAIN_SIZE)


def test_second_call_changes_nothing(cache):
    assert digits.ensure_digits() == cache
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    assert digits.ensure_digits() == cache
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*")} == before


def test_files_are_the_same_every_time(cache, tmp_path, monkeypatch):
    first = opened(options.Digits()).fingerprint
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "other"))
    assert opened(options.Digits()).fingerprint == first


def _prepare_and_count(barrier, counts):
    barrier.wait()
    builds = []
    build = digits._build
    digits._build = lambda root: (builds.append(root), build(root))
    folder = digits.version_folder(digits.ensure_digits())
    counts.put((len(builds), sorted(f.name for f in folder.iterdir())))


def test_of_several_processes_at_once_one_prepares():
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_prepare_and_count, args=(barrier, counts)) for _ in range(2)]
    for worker in workers:
        worker.start()
    (built_a, files_a), (built_b, files_b) = counts.get(timeout=60), counts.get(timeout=60)
    for worker in workers:
        worker.join()
    assert sorted([built_a, built_b]) == [0, 1]
    assert files_a == files_b
    assert len(opened(options.Digits()).split("train+test").read(np.arange(1797))["label"]) == 1797


def _die_half_way():
    generate = digits.Digits._generate_examples

    def dying(self, part):
        for i, example in enumerate(generate(self, part)):
            if part.start and i == 100:  # train is written, test is not
                os._exit(9)
            yield example

    digits.Digits._generate_examples = dying
    digits.ensure_digits()


def test_interrupted_preparation_is_not_taken_for_whole(cache):
    worker = multiprocessing.get_context("spawn").Process(target=_die_half_way)
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    assert list(cache.glob("digits/incomplete*")), "it died before it wrote anything"
    assert not digits.is_prepared(cache)
    dataset = opened(options.Digits())
    assert len(dataset.split("test").read(np.arange(899))["label"]) == 899
    assert [p.name for p in (cache / "digits").iterdir()] == ["1.0.0"], "the rests are swept up"


def test_lost_file_is_made_again(cache):
    digits.ensure_digits()
    next(cache.glob("digits/1.0.0/*test.array_record*")).unlink()
    assert len(opened(options.Digits()).split("test").read(np.arange(899))["label"]) == 899


def test_cache_that_cannot_be_written(cache, monkeypatch):
    def full(root):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digits, "_build", full)
    with pytest.raises(UserError, match=r"No space left on device.\nSet CNNJAX_CACHE_DIR"):
        digits.ensure_digits()

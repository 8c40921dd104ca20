"""Batches: the same in memory, on the device and streamed; evaluation counts each example once."""

import os
import signal
import sys
import time

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.data import pipeline, workers
from cnnjax.data.pipeline import EvaluationBatch, TrainBatch
from cnnjax.data.source import Split, subset
from cnnjax.inputs.images.statistics import statistics


class Reader:
    """Examples whose every pixel and label is their index."""

    def __call__(self, indices):
        image = np.broadcast_to(np.asarray(indices)[:, None, None, None], (len(indices), 2, 2, 1)).astype(np.uint8)
        return dict(image=image.copy(), label=np.asarray(indices, np.int32))


SPLIT = Split(50, Reader())


def collect(opened):
    with opened as batches:
        return [{name: np.asarray(value) for name, value in batch.items()} for batch in batches]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_and_resident_batches_equal_those_in_memory(workers):
    batch = TrainBatch(pipeline.in_memory(SPLIT), seed=3, batch_size=16)
    memory = collect(pipeline.batches(batch, 2, 9))
    streamed = collect(pipeline.batches(TrainBatch(SPLIT, 3, 16), 2, 9, workers))
    assert_same(memory, streamed)
    assert_same(memory, collect(pipeline.resident_batches(batch, 2, 9, lambda tree: tree, lambda tree: tree)))
    assert len(memory) == 7 and memory[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(memory[0]["position"], np.arange(16))


class SchedulingReader(Reader):
    """Labels are how the reading thread is scheduled."""

    def __call__(self, indices):
        return super().__call__(indices) | dict(label=np.full(len(indices), os.sched_getscheduler(0), np.int32))


def test_processes_read_rows_of_the_same_batch():
    whole = TrainBatch(SPLIT, seed=3, batch_size=8)(5)
    for rows in (np.array([0, 2, 5]), np.array([1, 3, 4, 6, 7])):
        part = TrainBatch(SPLIT, 3, 8, rows)(5)
        np.testing.assert_array_equal(part["label"], whole["label"][rows])
        np.testing.assert_array_equal(part["position"], rows)
        part = EvaluationBatch(SPLIT, 8, rows)(6)  # of 50 examples, where two are left
        np.testing.assert_array_equal(part["label"][rows < 2], 48 + rows[rows < 2])
        np.testing.assert_array_equal(part["weight"], rows < 2)


def test_what_is_started_meanwhile_hears_no_signal():
    masked = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = masked()
    with workers.deaf_to_signals():
        assert masked() >= {signal.SIGINT, signal.SIGTERM}  # which processes and threads inherit
    assert masked() == before and not before & {signal.SIGINT, signal.SIGTERM}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux schedules threads so")
@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_processes_that_read_leave_the_cores_to_the_computation(workers):
    interval = sys.getswitchinterval()
    with pipeline.batches(TrainBatch(Split(50, SchedulingReader()), 3, 16), 0, 4, workers) as batches:
        assert {int(label) for batch in batches for label in batch["label"]} == {os.SCHED_IDLE}
        assert sys.getswitchinterval() <= 1e-4
    assert sys.getswitchinterval() == interval
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_labels_stay_with_their_images():
    for batch in collect(pipeline.batches(TrainBatch(pipeline.in_memory(SPLIT), 0, 8), 0, 20)):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 70))
def test_evaluation_counts_each_example_exactly_once(size, batch_size):
    make = EvaluationBatch(pipeline.in_memory(Split(size, Reader())), batch_size)
    batches = collect(pipeline.batches(make, 0, make.count))
    counted = np.concatenate([b["label"][b["weight"] == 1] for b in batches])
    np.testing.assert_array_equal(counted, np.arange(size))
    assert all(len(b["label"]) == batch_size for b in batches)


def test_leaving_early_ends_the_workers():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    new = lambda: [
        c for c in psutil.Process().children(recursive=True) if c.pid not in before and "spawn_main" in str(c.cmdline())
    ]
    with pipeline.batches(TrainBatch(SPLIT, 0, 4), 0, 10**6, workers=1) as batches:
        next(batches)
        assert new()
    deadline = time.monotonic() + 10
    while new() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not new()


def test_statistics_against_numpy():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 5, 4, 3)).astype(np.uint8)
    images[..., 2] = 7  # a channel without variance is centred, not divided by zero
    split = Split(30, lambda i: dict(image=images[i], label=i))
    found = statistics(split)
    pixels = images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, [*pixels.std(0)[:2], 1.0], rtol=1e-5)
    # Noise along the components has the covariance of the pixels.
    np.testing.assert_allclose(found.components @ found.components.T, np.cov(pixels.T, bias=True), atol=1e-6)


def test_a_subset_reads_its_own_indices():
    part = subset(SPLIT, np.array([5, 40, 7]))
    np.testing.assert_array_equal(part.read(np.array([2, 0]))["label"], [7, 5])
    np.testing.assert_array_equal(subset(part, np.array([1])).read(np.array([0]))["label"], [40])


def test_ahead_keeps_the_order_and_every_item():
    assert list(pipeline.ahead(iter(range(7)), lambda x: x * 10, depth=2)) == [0, 10, 20, 30, 40, 50, 60]
    assert list(pipeline.ahead(iter([]), lambda x: x)) == []

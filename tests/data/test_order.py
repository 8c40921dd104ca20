"""The order of examples: a function of the seed and the step alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.data.order import batch_indices, permutation, validation_cut

sizes, seeds = st.integers(1, 200), st.integers(0, 2**31 - 1)


@given(sizes, seeds, st.integers(1, 50))
def test_each_epoch_holds_every_example_once_across_batches(size, seed, batch_size):
    stream = np.concatenate([batch_indices(seed, step, batch_size, size) for step in range(-(-3 * size // batch_size))])
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(stream[epoch * size : (epoch + 1) * size]), np.arange(size))


@given(sizes, seeds, st.integers(0, 10**6))
def test_any_batch_can_be_had_without_those_before(size, seed, step):
    epoch, place = divmod(8 * step, size)
    assert batch_indices(seed, step, 8, size)[0] == permutation(seed, epoch, size)[place]


def test_epochs_and_seeds_are_shuffled_differently():
    orders = [tuple(permutation(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@given(st.integers(2, 500), st.floats(0.01, 0.99))
def test_validation_is_cut_without_overlap(size, fraction):
    train, validation = validation_cut(size, fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(size))
    assert len(train) and len(validation) and abs(len(validation) - size * fraction) <= 1


def test_the_order_is_pinned():
    """A run that an older version began must go on with the same data: this order may never change."""
    assert permutation(0, 0, 10).tolist() == [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]
    assert permutation(7, 3, 6).tolist() == [4, 0, 5, 3, 1, 2]

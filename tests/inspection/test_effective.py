"""The effective field of view against kernels convolved in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.inspection.certificate import certify
from cnnjax.inspection.effective import effective_field_of_view
from cnnjax.inspection.field_of_view import field_of_view


def boxes(layers):
    """A stack of 3x3 sums without padding."""

    def run(x):
        for _ in range(layers):
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")
        return x

    return run


@pytest.mark.parametrize("layers", [1, 4, 16])
def test_uniform_layers_see_a_binomial_of_the_variance_of_their_sum(layers):
    """Luo et al. 2016, section 2: each layer adds the variance 2/3 of three equal weights; the width grows like a root."""
    marginal = np.ones(1)
    for _ in range(layers):
        marginal = np.convolve(marginal, np.ones(3) / 3)
    size = 2 * layers + 1
    found = effective_field_of_view(boxes(layers), jnp.zeros((1, size, size, 1)), samples=2)
    np.testing.assert_allclose(found.weight, np.outer(marginal, marginal), atol=1e-6)
    assert found.width == pytest.approx([4 * (layers * 2 / 3) ** 0.5] * 2, rel=1e-5)
    outer = np.outer(marginal, marginal)
    assert found.area == (outer > 0.0455 * outer.max()).sum()


def test_it_is_narrower_than_the_theoretical_one():
    image = jnp.zeros((1, 33, 33, 1))
    assert field_of_view(boxes(16), image)[0].size == 33
    assert max(effective_field_of_view(boxes(16), image, samples=1).width) < 14


def test_a_function_without_a_gradient_has_none():
    with pytest.raises(UserError, match="the gradient of the centre position is zero"):
        effective_field_of_view(lambda x: jnp.round(x), jnp.zeros((1, 5, 5, 1)))


def test_a_certificate_in_three_dimensions():
    kernel = jnp.ones((3, 1, 2, 2, 2))
    function = lambda x: jax.lax.conv_general_dilated(
        x, kernel, (1, 2, 1), "SAME", rhs_dilation=(2, 1, 1), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    image = jnp.zeros((1, 7, 6, 5, 2))
    views = field_of_view(function, image)
    assert [(view.size, view.stride) for view in views] == [(5, 1), (1, 2), (2, 1)]
    certificate = certify(function, image, views)
    assert certificate.failures == () and certificate.probes > 30

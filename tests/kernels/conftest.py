"""Kernels are tested on every path that this machine has."""

import pytest

from cnnjax.kernels import GPU, ONEDNN, PORTABLE
from cnnjax.kernels.onednn.handler import bridge
from cnnjax.kernels.onednn.library import Unavailable


def _why_not() -> str:
    try:
        bridge()
    except Unavailable as reason:
        return str(reason)
    return ""


WHY_NOT = _why_not()
PATHS = [pytest.param(ONEDNN, marks=pytest.mark.skipif(bool(WHY_NOT), reason=f"no oneDNN: {WHY_NOT}")), PORTABLE]


@pytest.fixture(params=PATHS)
def path(request):
    return request.param


@pytest.fixture(params=[*PATHS, GPU])
def any_path(request):
    """One of all: with kernels for max pooling, response normalisation and transposed convolution."""
    return request.param


@pytest.fixture
def onednn():
    if WHY_NOT:
        pytest.skip(f"no oneDNN: {WHY_NOT}")
    return ONEDNN

"""cnnjax as a library: what the docstring shows is what happens."""

import doctest

import cnnjax
from tests.undrawn import no_pictures


def test_the_docstring_runs(tmp_path, monkeypatch, one_device):
    monkeypatch.chdir(tmp_path)
    with no_pictures():
        result = doctest.testmod(cnnjax)
    assert result.attempted == 9 and result.failed == 0


def test_every_public_name_is_there_and_documented():
    for name in cnnjax.__all__:
        assert getattr(cnnjax, name).__doc__, name

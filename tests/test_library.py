"""cnnjax as a library: what the docstring shows is what happens."""

import doctest

import cnnjax


def test_the_docstring_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(cnnjax)
    assert result.attempted == 9 and result.failed == 0


def test_every_public_name_is_there_and_documented():
    for name in cnnjax.__all__:
        assert getattr(cnnjax, name).__doc__, name

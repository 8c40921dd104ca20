"""What tests of prepared sets share."""

import pytest

from cnnjax.data.digits import ensure_digits


@pytest.fixture
def nothing_outside(tmp_path, monkeypatch):
    """Nothing outside the test's own folder is searched."""
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CNNJAX_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A data_dir with the digits prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNJAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return ensure_digits()

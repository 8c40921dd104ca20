"""The cache of programs: what was cut off while it was written goes, what is whole stays."""

import os
import time
import zlib

from cnnjax.compilation_cache import remove_broken_programs

WHOLE = zlib.compress(bytes(range(256)) * 100)


def programs(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}-cache").write_bytes(content)


def there(folder):
    return sorted(path.name.removesuffix("-cache") for path in folder.glob("*-cache"))


def test_programs_that_were_cut_off_are_deleted(tmp_path):
    programs(tmp_path, whole=WHOLE, cut=WHOLE[:-7], flipped=WHOLE[:-1] + b"\0", empty=b"", other=b"not by zlib")
    remove_broken_programs(tmp_path)
    assert there(tmp_path) == ["other", "whole"]


def test_each_program_is_looked_at_once(tmp_path):
    remove_broken_programs(tmp_path)
    programs(tmp_path, new=WHOLE[:-7], old=WHOLE[:-7])
    hours_ago = time.time() - 7200  # before the last look, when it was whole
    os.utime(tmp_path / "old-cache", (hours_ago, hours_ago))
    remove_broken_programs(tmp_path)
    assert there(tmp_path) == ["old"]


def test_a_folder_that_is_not_there_is_no_fault(tmp_path):
    remove_broken_programs(tmp_path / "nowhere")

"""Tiles kept in memory and on disk."""

import pickle
from pathlib import Path

import pytest

from zoomldm.errors import TargetError
from zoomldm.viewer.cache import TileCache


def test_both_parts_keep_to_their_bytes(tmp_path: Path) -> None:
    cache = TileCache(tmp_path / "c", memory=10_000, disk=1_000_000)
    for i in range(300):
        cache.remember(str(i), bytes(1000))
        cache.write(str(i), bytes(20_000))
    assert cache.memory_bytes <= 10_000
    assert cache.disk_bytes <= 2_000_000  # the tables of an empty one have some 32 kB
    assert cache.remembered("299") and cache.remembered("0") is None
    assert cache.read("299") and cache.read("0") is None
    cache.close()


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    one, other = TileCache(tmp_path / "c"), TileCache(tmp_path / "c")
    one.write("a", b"tile")
    assert other.read("a") == b"tile"
    other.write("a", b"tile")
    assert one.read("a") == b"tile" and not one.faults
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0  # patients' data: for this user alone


def test_no_pickle_is_kept_or_read(tmp_path: Path) -> None:
    import diskcache

    cache = TileCache(tmp_path / "c")

    class Bad:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "run",)

    with diskcache.Cache(str(tmp_path / "c")) as plain:
        plain.set("b", Bad())
    assert pickle.dumps(Bad())
    assert cache.read("b") is None and not (tmp_path / "run").exists()
    assert cache.faults == 1


def test_a_folder_that_can_not_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="can't be used as a cache"):
        TileCache(tmp_path / "file")

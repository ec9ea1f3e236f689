"""Values kept in memory and on disk, up to a number of bytes."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zoomldm.caching import DiskCache, Recent
from zoomldm.errors import TargetError


def test_the_least_recently_used_goes_first_and_bytes_are_bounded() -> None:
    cache: Recent[str] = Recent(20)
    cache.put("a", "one", 8)
    cache.put("b", "two", 8)
    assert cache.get("a") == "one"
    cache.put("c", "three", 8)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("one", None, "three")
    assert cache.bytes == 16 and len(cache) == 2
    cache.put("a", "again", 8)
    assert cache.get("a") == "one" and cache.bytes == 16
    cache.put("d", "too large", 21)
    assert cache.get("d") is None and len(cache) == 2
    cache.clear()
    assert cache.get("a") is None and cache.bytes == 0


def test_eight_threads_keep_the_books_right() -> None:
    cache: Recent[int] = Recent(1000)

    def work(start: int) -> None:
        for i in range(2000):
            key = (start * i) % 97
            if cache.get(key) not in (None, key):
                raise AssertionError(key)
            cache.put(key, key, 30)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 30 * len(cache) <= 1000


def test_a_lock_held_while_forking_is_free_in_the_child() -> None:
    cache: Recent[int] = Recent(10)
    with cache._lock:
        child = os.fork()
        if child == 0:
            cache.put("a", 1, 1)
            os._exit(0 if cache.get("a") == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("diskcache")
    return tmp_path / "cache"


def test_a_folder_keeps_bytes_up_to_its_budget_for_all_who_share_it(folder: Path) -> None:
    one, other = DiskCache(folder, 3 << 20), DiskCache(folder, 3 << 20)
    assert folder.stat().st_mode & 0o077 == 0
    one.put("a", b"first")
    assert other.get("a") == b"first"
    for i in range(60):
        other.put(f"large {i}", os.urandom(100_000))
    assert one.held < 3.3e6
    assert one.get("a") is None  # the oldest went first
    assert len(one.get("large 59") or b"") == 100_000


def test_two_processes_may_write_at_once(folder: Path) -> None:
    code = f"""
import sys
from zoomldm.caching import DiskCache
cache = DiskCache({str(folder)!r}, 1 << 20)
for i in range(60):
    name = str(i % 20)
    data = cache.get(name)
    assert data in (None, name.encode() * 9000), name
    cache.put(name, name.encode() * 9000)
assert cache.faults == 0
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert DiskCache(folder, 1 << 20).get("19") == b"19" * 9000


def test_what_was_changed_on_disk_is_not_given_out(folder: Path) -> None:
    cache = DiskCache(folder, 1 << 20)
    cache.put("a", bytes(100_000))
    (file,) = folder.rglob("*.val")
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    assert cache.get("a") is None
    file.unlink()
    assert cache.get("a") is None
    cache._cache.set("b", {"a": "pickle"})
    assert cache.get("b") is None


def test_a_disk_that_fails_costs_a_miss_and_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(folder, 1 << 20)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._cache, "set", full)
    with caplog.at_level(logging.WARNING):
        cache.put("a", b"1")
        cache.put("b", b"2")
    assert cache.faults == 2 and len(caplog.records) == 1
    assert "No space left" in caplog.text and cache.get("a") is None
    folder.with_name("file").write_text("no folder")
    with pytest.raises(TargetError, match="can't be used as a cache"):
        DiskCache(folder.with_name("file"))

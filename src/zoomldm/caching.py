"""Caches of limited size: recently used values in memory, recently written ones on disk."""

import logging
import os
import sqlite3
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from zoomldm.errors import ConfigError, TargetError

_log = logging.getLogger(__name__)
_BUDGET = 128 << 20

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A cache of recently used values, limited by total bytes; safe to share between threads.

    Args:
        most: limit in bytes. A larger value is not cached.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._start()
        _ALL.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of all cached values."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, None if it is not cached."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Cache a value of `size` bytes; a key's existing value is not replaced."""
        with self._lock:
            if key in self._values or size > self.most:
                return
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self.most:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()
            self._bytes = 0


_ALL: "weakref.WeakSet[Recent[Any]]" = weakref.WeakSet()


def _after_fork() -> None:
    """Start empty in a child: a lock held by another thread at the fork would stay locked there."""
    for recent in list(_ALL):
        recent._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# Decoded chunks of all archives together: training opens hundreds at once.
CHUNKS: Recent[NDArray] = Recent(_BUDGET)


def cached_chunk(key: Hashable, load: Callable[[], NDArray]) -> NDArray:
    """A chunk of an archive, loaded if it is not cached. Two threads may load the same one."""
    array = CHUNKS.get(key)
    if array is None:
        array = load()
        CHUNKS.put(key, array, array.nbytes)
    return array


class DiskCache:
    """A cache of bytes by name in a folder, limited by total bytes; the oldest are removed first.

    Threads and processes may share the folder: SQLite coordinates them (the package diskcache).
    Data is checked when read, and no pickle is ever loaded. Faults of the disk, such as a full one,
    are logged once and count as a cache miss, never as an error.

    Args:
        folder: created if missing, accessible only to this user.
        most: limit in bytes.

    Raises:
        TargetError: the folder can't be used.
        ConfigError: the package diskcache is missing.
    """

    def __init__(self, folder: Path | str, most: int = 4 << 30) -> None:
        try:
            import diskcache  # pyright: ignore[reportMissingImports]
            from diskcache.core import MODE_PICKLE  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "a cache on disk needs the package diskcache; pip install 'zoomldm[viewer]'"
            ) from error

        class Plain(diskcache.Disk):
            def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> Any:
                if mode == MODE_PICKLE:
                    raise ValueError("it holds a pickle, which was never written")
                return super().fetch(mode, filename, value, read)

        self.folder, self.faults = Path(folder), 0
        self._errors = OSError, sqlite3.Error, diskcache.Timeout, ValueError
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cache = diskcache.Cache(
                str(self.folder),
                timeout=2,
                disk=Plain,
                size_limit=most,
                eviction_policy="least-recently-stored",  # reading then writes nothing
            )
        except self._errors as error:
            raise TargetError(
                f"{self.folder}: can't be used as a cache ({error}); name another folder"
            ) from error

    @property
    def held(self) -> int:
        """Bytes on disk, 0 if this can't be determined."""
        try:
            return int(self._cache.volume())
        except self._errors:
            return 0

    def get(self, key: str) -> bytes | None:
        """The bytes stored under a name, None if they are missing or damaged."""
        try:
            data = self._cache.get(key)
        except self._errors as error:
            self._fault("read", error)
            return None
        if not isinstance(data, bytes) or len(data) < 4:
            return None
        mark, data = data[:4], data[4:]
        return data if zlib.crc32(data).to_bytes(4, "big") == mark else None

    def put(self, key: str, data: bytes) -> None:
        """Store bytes under a name, replacing existing ones."""
        try:
            self._cache.set(key, zlib.crc32(data).to_bytes(4, "big") + data)
        except self._errors as error:
            self._fault("written", error)

    def _fault(self, what: str, error: BaseException) -> None:
        self.faults += 1
        if self.faults == 1:
            _log.warning("%s: the cache can't be %s (%s); it is done without", self.folder, what,
                         error)  # fmt: skip

    def close(self) -> None:
        """Close its files."""
        self._cache.close()

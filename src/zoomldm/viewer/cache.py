"""Encoded tiles kept in memory and on disk, both bounded in bytes."""

import errno
import logging
import sqlite3
from pathlib import Path
from typing import Any

import diskcache
from diskcache.core import MODE_PICKLE

from zoomldm.caching import Recent
from zoomldm.errors import TargetError

_log = logging.getLogger(__name__)
_FAULTS = (OSError, sqlite3.Error, diskcache.Timeout, ValueError)
_WAIT = 2  # seconds that a write waits for another process


class _Plain(diskcache.Disk):
    """Bytes and text only: a cache that someone else may write to must not hold pickles."""

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if not isinstance(value, bytes | str | float):
            raise ValueError("the tile cache keeps bytes, text and numbers")
        return super().store(value, read, key=key)

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> Any:
        if mode == MODE_PICKLE:
            raise ValueError("the tile cache holds a pickle, which it never wrote")
        return super().fetch(mode, filename, value, read)


class TileCache:
    """Bytes by key. Faults of the disk are logged once and cost a miss, never an answer.

    Several servers may share one folder (SQLite keeps them apart); keys name the digests of what
    a value is a function of, so that a value is never out of date.

    Args:
        folder: where the disk's part lies, made for this user alone; None keeps none.
        memory: bytes kept in memory.
        disk: bytes kept on disk.

    Raises:
        TargetError: the folder can't be used.
    """

    def __init__(self, folder: Path | None, memory: int = 128 << 20, disk: int = 2 << 30) -> None:
        self.faults = 0
        self._recent: Recent[bytes] = Recent(memory)
        self._disk: diskcache.Cache | None = None
        if folder is None or disk <= 0:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._disk = diskcache.Cache(
                str(folder), timeout=_WAIT, disk=_Plain, size_limit=disk, eviction_policy=_POLICY
            )
        except _FAULTS as error:
            raise TargetError(
                f"{folder}: can't keep tiles there ({error}); give another --cache, or --cache-mb 0"
            ) from error

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory."""
        return self._recent.bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk."""
        try:
            return int(self._disk.volume()) if self._disk is not None else 0
        except _FAULTS:
            return 0

    def remembered(self, key: str) -> bytes | None:
        """The value of a key that is in memory; for one thread."""
        return self._recent.get(key)

    def remember(self, key: str, value: bytes) -> None:
        """Keep a value in memory; for one thread."""
        self._recent.put(key, value, len(value))

    def read(self, key: str) -> Any:
        """The value of a key on disk, None where there is none; from any thread."""
        if self._disk is None:
            return None
        try:
            return self._disk.get(key)
        except _FAULTS as error:
            self._fault("read", error)
            return None

    def write(self, key: str, value: bytes | float) -> None:
        """Keep a value on disk; from any thread."""
        if self._disk is None:
            return
        try:
            self._disk.set(key, value)
        except _FAULTS as error:
            self._fault("written", error)

    def _fault(self, what: str, error: BaseException) -> None:
        self.faults += 1
        full = getattr(error, "errno", None) == errno.ENOSPC or "full" in str(error)
        if self.faults == 1:
            advice = "free some space" if full else "tiles are made again each time"
            _log.warning("the tile cache can't be %s (%s); %s", what, error, advice)

    def close(self) -> None:
        """Forget what is in memory and close the disk's part."""
        self._recent.clear()
        if self._disk is not None:
            self._disk.close()


_POLICY = "least-recently-stored"  # a read then writes nothing

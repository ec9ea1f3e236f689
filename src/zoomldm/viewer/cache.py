"""Cache of encoded tiles in memory and on disk, both bounded in bytes."""

from pathlib import Path

from zoomldm.caching import DiskCache, Recent


class TileCache:
    """Bytes by key. Keys contain digests of all that a value depends on, so none goes stale.

    Args:
        folder: folder of the disk cache, see `DiskCache`; None for no disk cache.
        memory: limit of bytes in memory.
        disk: limit of bytes on disk; 0 for no disk cache.

    Raises:
        TargetError: the folder can't be used.
    """

    def __init__(self, folder: Path | None, memory: int = 128 << 20, disk: int = 2 << 30) -> None:
        self._recent: Recent[bytes] = Recent(memory)
        self._disk = DiskCache(folder, disk) if folder is not None and disk > 0 else None

    @property
    def faults(self) -> int:
        """Reads and writes that failed on disk."""
        return self._disk.faults if self._disk else 0

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory."""
        return self._recent.bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk."""
        return self._disk.held if self._disk else 0

    def remembered(self, key: str) -> bytes | None:
        """Return the value of a key in memory, or None."""
        return self._recent.get(key)

    def remember(self, key: str, value: bytes) -> None:
        """Store a value in memory."""
        self._recent.put(key, value, len(value))

    def read(self, key: str) -> bytes | None:
        """Return the value of a key on disk, or None."""
        return self._disk.get(key) if self._disk else None

    def write(self, key: str, value: bytes) -> None:
        """Store a value on disk."""
        if self._disk:
            self._disk.put(key, value)

    def close(self) -> None:
        """Clear the memory and close the disk cache."""
        self._recent.clear()
        if self._disk:
            self._disk.close()

"""Encoded tiles kept in memory and on disk, both bounded in bytes."""

from pathlib import Path

from zoomldm.caching import DiskCache, Recent


class TileCache:
    """Bytes by key. Keys name the digests of what a value is a function of, so that none is stale.

    Args:
        folder: where the disk's part lies, see `DiskCache`; None keeps none.
        memory: bytes kept in memory.
        disk: bytes kept on disk; 0 keeps none.

    Raises:
        TargetError: the folder can't be used.
    """

    def __init__(self, folder: Path | None, memory: int = 128 << 20, disk: int = 2 << 30) -> None:
        self._recent: Recent[bytes] = Recent(memory)
        self._disk = DiskCache(folder, disk) if folder is not None and disk > 0 else None

    @property
    def faults(self) -> int:
        """Reads and writes that the disk refused."""
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
        """The value of a key that is in memory."""
        return self._recent.get(key)

    def remember(self, key: str, value: bytes) -> None:
        """Keep a value in memory."""
        self._recent.put(key, value, len(value))

    def read(self, key: str) -> bytes | None:
        """The value of a key on disk, None where there is none."""
        return self._disk.get(key) if self._disk else None

    def write(self, key: str, value: bytes) -> None:
        """Keep a value on disk."""
        if self._disk:
            self._disk.put(key, value)

    def close(self) -> None:
        """Forget what is in memory and close the disk's part."""
        self._recent.clear()
        if self._disk:
            self._disk.close()

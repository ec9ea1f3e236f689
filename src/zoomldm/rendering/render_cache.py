"""Cache of what was generated from an archive: in memory, and additionally on disk."""

import tempfile
import threading
from pathlib import Path
from typing import Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.caching import Recent
from zoomldm.generation.windows import SIDE, Field

Rendered = Field | NDArray[np.uint8]

_FIELD, _IMAGE = b"F", b"P"


class Disk(Protocol):
    """Storage for bytes beyond memory; it may drop them at any time."""

    def get(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store bytes, if possible."""
        ...

    def close(self) -> None:
        """Release the file or folder."""
        ...


class RenderCache:
    """Cache of windows and tiles by position, for one source of pixels.

    Args:
        memory: in-memory cache, not shared with others.
        disk: additional storage for lasting items, not shared with others.
    """

    def __init__(self, memory: Recent[Rendered], disk: Disk | None = None) -> None:
        self.memory, self.disk = memory, disk
        self._name, self._shared = "", False

    def share(
        self, name: str, memory: Recent[Rendered] | None = None, disk: Disk | None = None
    ) -> None:
        """Use caches that are shared with others from now on.

        Args:
            name: identifies the pixels: a digest of archive, pipeline and options.
            memory: replaces its own memory cache.
            disk: replaces its current disk.
        """
        self._name = name
        if memory is not None:
            if not self._shared:
                self.memory.clear()
            self.memory, self._shared = memory, True
        if disk is not None:
            self.disk = disk

    def _key(self, place: tuple[str | int, ...]) -> str:
        return "/".join(map(str, (self._name, *place)))

    def get(self, *place: str | int) -> Rendered | None:
        """The cached item of a position, or None; read-only."""
        key = self._key(place)
        value = self.memory.get(key)
        if value is None and self.disk is not None:
            data = self.disk.get(key)
            if data is not None:
                value = _decoded(data)
                self._keep(key, value)
        return value

    def put(self, *place: str | int, value: Rendered, lasting: bool = False) -> None:
        """Cache the item of a position; with `lasting`, on disk too."""
        key = self._key(place)
        self._keep(key, value)
        if lasting and self.disk is not None:
            self.disk.put(key, _encoded(value))

    def _keep(self, key: str, value: Rendered) -> None:
        arrays = value if isinstance(value, Field) else (value,)
        for array in arrays:
            array.flags.writeable = False
        self.memory.put(key, value, sum(array.nbytes for array in arrays))

    def close(self) -> None:
        """Empty the memory cache, if it is not shared, and close the disk."""
        if not self._shared:
            self.memory.clear()
        if self.disk is not None:
            self.disk.close()


def _encoded(value: Rendered) -> bytes:
    if isinstance(value, Field):
        return _FIELD + b"".join(plane.astype("<f4").tobytes() for plane in value)
    return _IMAGE + imagecodecs.png_encode(value, level=1)


def _decoded(data: bytes) -> Rendered:
    kind, rest = data[:1], data[1:]
    if kind == _IMAGE:
        return imagecodecs.png_decode(rest)
    luma, chroma = np.split(np.frombuffer(rest, "<f4").astype(np.float32), [SIDE * SIDE])
    half = SIDE // 2
    return Field(luma.reshape(SIDE, SIDE), chroma.reshape(2, half, half))


class Spool:
    """Bytes in an unnamed file of this process, up to a budget; it ends with the process.

    Args:
        most: budget in bytes.
        folder: where the file lies; the system's temporary folder by default.
    """

    def __init__(self, most: int, folder: Path | None = None) -> None:
        self._most, self._folder = most, folder
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._file = None
        self._end = 0

    def get(self, key: str) -> bytes | None:
        """See `Disk`."""
        with self._lock:
            if key not in self._places or self._file is None:
                return None
            start, length = self._places[key]
            self._file.seek(start)
            return self._file.read(length)

    def put(self, key: str, data: bytes) -> None:
        """See `Disk`."""
        with self._lock:
            if key in self._places or self._end + len(data) > self._most:
                return
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._file.seek(self._end)
                self._file.write(data)
                self._file.flush()
            except OSError:  # a full disk costs time, not pixels: the item is generated again
                self._most = 0
                return
            self._places[key] = self._end, len(data)
            self._end += len(data)

    def close(self) -> None:
        """See `Disk`."""
        with self._lock:
            self._places.clear()
            self._end = 0
            if self._file is not None:
                self._file.close()
                self._file = None

"""Patches kept for reuse: in memory up to a budget, then in a nameless file on disk."""

import tempfile
from collections import OrderedDict
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int, int]


class PatchCache:
    """Patches by (level, row, col), the least recently used leaving memory first.

    What leaves memory is kept on disk losslessly if it was put with `spool`, as long as the disk's
    budget lasts. The file has no name and ends with the process, however it ends.

    Args:
        memory: bytes of pixels kept in memory.
        disk: bytes kept on disk, 0 for none.
        folder: where the file lies; the system's temporary folder by default.
    """

    def __init__(self, memory: int = 256 << 20, disk: int = 0, folder: Path | None = None) -> None:
        self._memory = memory
        self._disk = disk
        self._folder = folder
        self._bytes = 0
        self._patches: OrderedDict[Key, tuple[NDArray[np.uint8], bool]] = OrderedDict()
        self._places: dict[Key, tuple[int, int]] = {}
        self._file = None
        self._end = 0

    def get(self, key: Key) -> NDArray[np.uint8] | None:
        """The patch, or None where it isn't kept; not to be written to."""
        if key in self._patches:
            self._patches.move_to_end(key)
            return self._patches[key][0]
        if key in self._places and self._file is not None:
            start, length = self._places[key]
            self._file.seek(start)
            patch = imagecodecs.png_decode(self._file.read(length))
            self.put(key, patch)
            return patch
        return None

    def put(self, key: Key, patch: NDArray[np.uint8], spool: bool = False) -> None:
        """Keep a patch; with `spool`, also beyond the memory's budget."""
        if key in self._patches:
            return
        patch.flags.writeable = False
        self._patches[key] = patch, spool
        self._bytes += patch.nbytes
        while self._bytes > self._memory:
            old, (array, wanted) = self._patches.popitem(last=False)
            self._bytes -= array.nbytes
            if wanted and old not in self._places:
                self._spool(old, array)

    def _spool(self, key: Key, patch: NDArray[np.uint8]) -> None:
        if self._end >= self._disk:
            return
        data = imagecodecs.png_encode(patch, level=1)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError:  # a full disk costs time, not pixels: what is not kept is made again
            self._disk = 0
            return
        self._places[key] = self._end, len(data)
        self._end += len(data)

    def close(self) -> None:
        """Forget everything."""
        self._patches.clear()
        self._places.clear()
        self._bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None

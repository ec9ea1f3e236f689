"""Decoded chunks kept in memory, the least recently used going first."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from numpy.typing import NDArray

_BUDGET = 128 << 20


class ChunkCache:
    """Read-only arrays up to a number of bytes in all; safe to share between threads."""

    def __init__(self, budget: int = _BUDGET) -> None:
        self._budget = budget
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[Hashable, NDArray] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, load: Callable[[], NDArray]) -> NDArray:
        """The array of `key`, loaded if it isn't there. Two threads may load the same one."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = load()
        with self._lock:
            if key not in self._arrays and array.nbytes <= self._budget:
                self._arrays[key] = array
                self._bytes += array.nbytes
                while self._bytes > self._budget:
                    self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array


# One for all archives: training opens hundreds at once.
SHARED = ChunkCache()
if hasattr(os, "register_at_fork"):
    # A lock that another thread held while forking would stay locked in the child.
    os.register_at_fork(after_in_child=SHARED._clear)

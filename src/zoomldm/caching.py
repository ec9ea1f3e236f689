"""Decoded chunks kept in memory, the least recently used going first."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from numpy.typing import NDArray

_BUDGET = 128 << 20

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


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


class Recent(Generic[Key, Value]):
    """The values used last, up to a number of bytes in all; for one thread.

    Args:
        most: bytes; the value put last stays in any case.
    """

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self.values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """The value of a key, None where it is not kept."""
        if key not in self.values:
            return None
        self.values.move_to_end(key)
        return self.values[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keep a value of so many bytes."""
        if key not in self.values:
            self.values[key] = value, size
            self.bytes += size
        while self.bytes > self.most and len(self.values) > 1:
            self.bytes -= self.values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        self.values.clear()
        self.bytes = 0


# One for all archives: training opens hundreds at once.
SHARED = ChunkCache()
if hasattr(os, "register_at_fork"):
    # A lock that another thread held while forking would stay locked in the child.
    os.register_at_fork(after_in_child=SHARED._clear)

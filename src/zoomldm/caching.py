"""Values kept in memory up to a number of bytes, the least recently used going first."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

_BUDGET = 128 << 20

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values used last, up to a number of bytes in all; safe to share between threads.

    Args:
        most: bytes. A value of more is not kept.
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
        """Bytes of all values kept."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, None where it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of so many bytes; one that is kept already stays."""
        with self._lock:
            if key in self._values or size > self.most:
                return
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self.most:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._bytes = 0


_ALL: "weakref.WeakSet[Recent[Any]]" = weakref.WeakSet()


def _after_fork() -> None:
    """Start anew in a child: a lock that another thread held while forking stays locked there."""
    for recent in list(_ALL):
        recent._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# Decoded chunks of all archives: training opens hundreds at once.
CHUNKS: Recent[NDArray] = Recent(_BUDGET)


def kept_chunk(key: Hashable, load: Callable[[], NDArray]) -> NDArray:
    """A chunk of an archive, loaded if it isn't there. Two threads may load the same one."""
    array = CHUNKS.get(key)
    if array is None:
        array = load()
        CHUNKS.put(key, array, array.nbytes)
    return array

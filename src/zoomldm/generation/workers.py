"""Batches side by side on the cores of a CPU."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
WIDE = 4  # a tile has so many windows at a level

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def side_by_side(
    function: Callable[[T], R], parts: Iterable[T], device: torch.device
) -> Iterator[R]:
    """A function of each part, in order; on a CPU up to four at once, on torch's threads in all.

    A batch of one small image keeps hardly more than one core busy, so that batches side by side
    on a share of the threads each are nearly as many times faster. What a batch gives depends on
    that share only, not on the batches beside it.

    Args:
        function: runs networks; safe to call from several threads.
        parts: what it is called with.
        device: where the networks are; elsewhere than on a CPU the parts go one after another.

    Returns:
        What the function returns, as soon as it is there.

    Examples:
        >>> list(side_by_side(lambda x: 2 * x, [1, 2, 3], torch.device("cpu")))
        [2, 4, 6]
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return map(function, parts)
    return _pool(threads).map(function, parts)


def _pool(threads: int) -> ThreadPoolExecutor:
    """As many workers as are sensible for so many threads, each with its share of them."""
    with _lock:
        if threads not in _pools:
            workers = min(threads, WIDE)
            ready = threading.Barrier(workers)

            def start() -> None:
                torch.get_num_threads()  # else the first use of several threads sets their number
                torch.set_num_threads(threads // workers)
                ready.wait()  # so that each worker runs this once

            made = ThreadPoolExecutor(workers, "zoomldm")
            for done in [made.submit(start) for _ in range(workers)]:
                done.result()
            torch.set_num_threads(threads)  # of threads to come, which the workers' setting changed
            _pools[threads] = made
        return _pools[threads]


def _after_fork() -> None:
    global _lock
    _pools.clear()  # a child has none of their threads
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""A command in a process of its own, and the memory that it takes."""

import subprocess
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Watched:
    """What came of a command.

    Attributes:
        peak: bytes resident, of it and its children, sampled every 50 ms; shared pages count
            once for each process.
        seconds: that it took.
        code: its exit code.
    """

    peak: int
    seconds: float
    code: int


def watched(command: list[str]) -> Watched:
    """Run a command to its end."""
    start, peak = time.monotonic(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, _resident(process))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    return Watched(peak, time.monotonic() - start, process.wait())


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total

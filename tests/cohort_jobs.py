"""Small jobs for cohorts, in a module that processes of a pool can import."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoomldm.cohort.items import Item
from zoomldm.errors import SlideError
from zoomldm.files import atomic_path


@dataclass(frozen=True)
class Copy:
    """Copies a text file, and does what the text says: `bad`, `crash`, `die`, `die once`.

    Each attempt leaves a line in `log`, so that a test sees how often a slide was done.
    """

    verb: ClassVar[str] = "copy"
    out: Path
    log: Path
    seconds: float = 0.0
    level: int = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"level": self.level}

    def load(self) -> str:
        return "loaded"

    def output(self, item: Item) -> Path:
        return self.out / f"{item.key}.copy"

    def run(self, loaded: Any, item: Item, progress: Any) -> Mapping[str, Any]:
        text = Path(item.source).read_text()
        with self.log.open("a") as file:
            file.write(f"{item.key} {os.getpid()}\n")
        time.sleep(self.seconds)
        if text == "bad":
            raise SlideError(f"{item.source}: is bad;\nexpected a good one")
        if text == "crash":
            raise ValueError("a fault of ours")
        if text == "die" or (text == "die once" and self.attempts(item) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        with atomic_path(self.output(item)) as part:
            part.write_text(text)
        return {"letters": len(text)}

    def attempts(self, item: Item) -> int:
        """Lines of a slide in the log."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.split()[0] == item.key for line in lines)


@dataclass(frozen=True)
class NoLibrary(Copy):
    """A job that no process can do."""

    def load(self) -> str:
        raise SlideError("weights can't be had")

"""What is known of each slide of a cohort: one small file a slide, written whole or not at all."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoomldm.cohort.items import Item
from zoomldm.files import atomic_path
from zoomldm.remote import RemoteError, RemotePath, as_path, is_url, size_of

SLIDES, CLAIMS = "slides", "claims"
_LONGEST = 200  # bytes of a name

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Record:
    """What was last done to a slide.

    Attributes:
        slide: path or URL.
        key: what it is called.
        status: `done` or `failed`.
        attempts: how often it was begun, over all runs.
        seconds: that the last attempt took.
        error: why it failed, in one line.
        report: what the verb reported.
        settings: digest of what it was done with.
        source: size (bytes) and time of change (ns) of a local file, and of its mate.
        output: path or URL of what was made.
        output_bytes: its size.
        host: machine that did it.
        versions: of zoomldm, Python and PyTorch.
        finished: UTC.
    """

    slide: str
    key: str
    status: Status
    attempts: int = 1
    seconds: float = 0.0
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    settings: str = ""
    source: list[int] | None = None
    output: str | None = None
    output_bytes: int | None = None
    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    finished: str = ""


def file_name(key: str) -> str:
    """A file name for a key: itself, or the start of it and a digest where it is long."""
    name = key.replace("/", "_").lstrip(".") or "_"
    if name == key and len(os.fsencode(name)) <= _LONGEST:
        return name
    start = os.fsencode(name)[: _LONGEST - 20].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"


def versions() -> dict[str, str]:
    """Versions that decide what comes out; PyTorch's where it is loaded."""
    import sys

    from zoomldm import __version__

    found = {"zoomldm": __version__, "python": platform.python_version()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return found


def now() -> str:
    """The time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def digest_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(item: Item) -> list[int] | None:
    """Size (bytes) and time of change (ns) of its local files; None where there are none."""
    found = []
    for source in (item.source, item.mate):
        if source is not None and not is_url(source):
            with suppress(OSError):
                stat = Path(source).stat()
                found += [stat.st_size, stat.st_mtime_ns]
    return found or None


class States:
    """The files of a cohort's state, in `folder/slides`; claims are in `folder/claims`.

    Raises:
        OSError: the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims = folder / CLAIMS
        self._slides = folder / SLIDES
        for part in (self.claims, self._slides):
            part.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """The file of a slide."""
        return self._slides / f"{file_name(key)}.json"

    def read(self, key: str) -> Record | None:
        """What is known of a slide; None where nothing is, or nothing that can be read."""
        try:
            return Record(**json.loads(self.path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Put down what is known of a slide.

        Raises:
            TargetError: it can't be written.
        """
        with atomic_path(self.path(record.key)) as part:
            part.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def is_done(record: Record | None, item: Item, settings: str) -> bool:
    """Whether a slide was done: with these settings, as it is now, and its output still there."""
    if record is None or record.status != "done" or record.settings != settings:
        return False
    if record.slide != item.source or record.source != fingerprint(item):
        return False
    if record.output is None:
        return True
    try:
        return bytes_of(as_path(record.output)) == record.output_bytes
    except RemoteError:  # it can't be asked for: what was put down counts
        return True


def bytes_of(output: Path | RemotePath) -> int | None:
    """Size of what was made, None where it isn't there.

    Raises:
        RemoteError: it can't be asked for.
    """
    if isinstance(output, RemotePath):
        return size_of(output.url)
    try:
        return output.stat().st_size
    except OSError:
        return None

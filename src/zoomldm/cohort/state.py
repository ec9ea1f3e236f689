"""The state of each slide of a cohort: one small file per slide, written atomically."""

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
_LONGEST = 200  # bytes in a name

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Record:
    """The last attempt at a slide.

    Attributes:
        slide: path or URL.
        key: key of the slide.
        status: `done` or `failed`.
        attempts: how often it was begun, over all runs.
        seconds: duration of the last attempt.
        error: why it failed, in one line.
        report: what the verb reported.
        settings: digest of the settings it was done with.
        source: size (bytes) and modification time (ns) of a local file, and of its mate.
        output: path or URL of the output.
        output_bytes: size of the output.
        host: machine that did it.
        versions: versions of zoomldm, Python and PyTorch.
        finished: time in UTC.
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
    """A file name for a key: the key itself, or its start and a digest if it is long."""
    name = key.replace("/", "_").lstrip(".") or "_"
    if name == key and len(os.fsencode(name)) <= _LONGEST:
        return name
    start = os.fsencode(name)[: _LONGEST - 20].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"


def versions() -> dict[str, str]:
    """Versions that affect the output; PyTorch's only if it is loaded."""
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
    """SHA-256 (hex) of settings, regardless of their order."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(item: Item) -> list[int] | None:
    """Size (bytes) and modification time (ns) of an item's local files; None if it has none."""
    found = []
    for source in (item.source, item.mate):
        if source is not None and not is_url(source):
            with suppress(OSError):
                stat = Path(source).stat()
                found += [stat.st_size, stat.st_mtime_ns]
    return found or None


class States:
    """The state files of a cohort, in `folder/slides`; claims are in `folder/claims`.

    Raises:
        OSError: the folder can't be created.
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
        """The record of a slide; None if there is none or it can't be read."""
        try:
            return Record(**json.loads(self.path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Write the record of a slide.

        Raises:
            TargetError: it can't be written.
        """
        with atomic_path(self.path(record.key)) as part:
            part.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def is_done(record: Record | None, item: Item, settings: str) -> bool:
    """Whether a slide is done: with these settings, unchanged since, and its output still there."""
    if record is None or record.status != "done" or record.settings != settings:
        return False
    if record.slide != item.source or record.source != fingerprint(item):
        return False
    if record.output is None:
        return True
    try:
        return bytes_of(as_path(record.output)) == record.output_bytes
    except RemoteError:  # its size can't be queried: trust the record
        return True


def bytes_of(output: Path | RemotePath) -> int | None:
    """Size of an output, None if it doesn't exist.

    Raises:
        RemoteError: its size can't be queried.
    """
    if isinstance(output, RemotePath):
        return size_of(output.url)
    try:
        return output.stat().st_size
    except OSError:
        return None

"""Finished pieces of a long run, in a folder beside the output, for resuming it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoomldm.files import atomic_path
from zoomldm.rendering.renderer import RULES
from zoomldm.writers.journal import Journal

_ENDING = ".piece"


class Pieces:
    """Bytes by key, written atomically, in a folder: a `Disk` for generated pieces.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{_ENDING}"

    def get(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""
        with suppress(FileNotFoundError):
            return self._path(key).read_bytes()
        return None

    def put(self, key: str, data: bytes) -> None:
        """Store bytes."""
        with atomic_path(self._path(key)) as part:
            part.write_bytes(data)

    def drop(self, key: str) -> None:
        """Delete a piece that is no longer needed."""
        self._path(key).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: no file is open, and the folder stays for the next run."""


@contextmanager
def resumable_pieces(target: Path, provenance: dict[str, Any]) -> Iterator[Pieces]:
    """Pieces of an output, found again after an interrupted run with the same provenance.

    The folder, `<target>.drawn.part`, is removed when the block ends without an exception.

    Args:
        target: the output.
        provenance: everything that the pieces depend on besides `RULES`, plain JSON values.

    Raises:
        TargetError: there is an unfinished run with other provenance.
    """
    whole = {**provenance, "rules": RULES}
    journal = Journal.begin(target.with_name(f"{target.name}.drawn"), whole)
    try:
        yield Pieces(journal.folder)
    except BaseException:
        if not any(journal.folder.glob(f"*{_ENDING}")):
            journal.close()  # nothing to resume from
        raise
    journal.close()

"""The folder beside an output from which an interrupted export resumes."""

import hashlib
import json
import os
import shutil
from glob import escape
from pathlib import Path
from typing import Any

from zoomldm.errors import TargetError
from zoomldm.files import atomic_path

NAME = "journal.jsonl"
FORMAT = "zoomldm export 1"
_GONE = ".gone"


class Journal:
    """The finished blocks of an export, one line each, after a line that identifies the export.

    The folder is `<target>.part`; it also contains the tiles. A block is noted after its tiles have
    their final names, so a line is true whenever the process ends. A truncated line is ignored.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[int, dict[str, Any]] = {}
        self._read = 0

    @classmethod
    def begin(cls, target: Path, options: dict[str, Any]) -> "Journal":
        """Start an export, or find what an interrupted one with the same options has finished.

        Args:
            target: the output.
            options: everything that its bytes depend on, plain JSON values.

        Raises:
            TargetError: the folder is something else, or was started with other options.
        """
        folder = target.with_name(target.name + ".part")
        path, wanted = folder / NAME, json.loads(json.dumps(options))
        empty = folder.is_dir() and not any(folder.iterdir())
        if folder.exists() and not path.is_file() and not empty:
            raise TargetError(
                f"{folder}: exists and is no unfinished export; remove it or give another name"
            )
        for left in target.parent.glob(f".{escape(folder.name)}.*{_GONE}"):
            shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        if not path.is_file():
            head = {"format": FORMAT, "digest": digest_of(wanted), "options": wanted}
            with atomic_path(path) as part:
                part.write_text(json.dumps(head) + "\n", encoding="utf-8")
        journal = cls(folder)
        with path.open("rb") as file:
            head = _parsed(file.readline())
            journal._read = file.tell()
        if head.get("format") != FORMAT:
            raise TargetError(
                f"{folder}: was begun by another version; remove that folder to start anew"
            )
        if head.get("digest") != digest_of(wanted):
            changed = _difference(head.get("options") or {}, wanted)
            raise TargetError(
                f"{folder}: holds an unfinished export with other options ({changed}); "
                "run that command again, or remove the folder to start anew"
            )
        journal.poll()
        return journal

    def poll(self) -> dict[int, dict[str, Any]]:
        """Read the notes of all finished blocks so far, including other processes' blocks."""
        with (self.folder / NAME).open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                found = _parsed(line)
                if isinstance(found.get("block"), int):
                    self.notes[found["block"]] = found.get("notes") or {}
        return self.notes

    def note(self, block: int, notes: dict[str, Any]) -> None:
        """Note a block as done."""
        line = json.dumps({"block": block, "notes": notes}, separators=(",", ":"))
        # The leading line break ends a line that a killed process may have left unfinished.
        data = f"\n{line}\n".encode()
        handle = os.open(self.folder / NAME, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Remove the folder once the output is complete."""
        # Rename it first: a half-removed folder would be taken for an unfinished export.
        gone = self.folder.with_name(f".{self.folder.name}.{os.getpid()}{_GONE}")
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def digest_of(options: dict[str, Any]) -> str:
    """SHA-256 (hex) of plain JSON values."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
    return ", ".join(f"{n}: {_short(before.get(n))}, now {_short(now.get(n))}" for n in names[:3])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

"""Verification of every byte of an archive."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoomldm.archive.container import (
    MAX_MANIFEST,
    File,
    compare_members,
    open_file,
    read_exactly,
    read_member,
    read_tail,
)
from zoomldm.archive.manifest import MANIFEST_NAME, parse_manifest
from zoomldm.archive.reader import Archive
from zoomldm.archive.zipformat import Entry, Tail, parse_directory
from zoomldm.errors import ArchiveError
from zoomldm.remote import RemoteError, RemotePath, as_path, local_copy
from zoomldm.verbs import Progress, Report, silent

_BLOCK = 1 << 22


def _content_digest(file: File, size: int, path: Path) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        digest.update(read_exactly(file, start, min(_BLOCK, size - start), path))
    return digest.hexdigest()


def _check_members(file: File, entries: dict[str, Entry], tail: Tail, path: Path) -> list[str]:
    """Check every member against its digest in the manifest, and the manifest against its own."""
    entry = entries.get(MANIFEST_NAME)
    if entry is None or entry.size > MAX_MANIFEST:
        return [f"{path}: member {MANIFEST_NAME} is missing"]
    try:
        data = read_member(file, entry, tail.digests.manifest, path)
        manifest = parse_manifest(data, path)
    except ArchiveError as error:
        return [str(error)]
    problems = [f"{path}: {line}" for line in compare_members(manifest, entries)]
    for member in manifest.members:
        if member.name in entries and member.name != MANIFEST_NAME:
            try:
                read_member(file, entries[member.name], member.sha256, path)
            except ArchiveError as error:
                problems.append(str(error))
    return problems


def _check_meaning(path: Path) -> list[str]:
    """Read everything through the reader, to find what a faulty writer could have stored."""
    try:
        with Archive(path) as archive:
            mask = archive.mask
            if int(mask.sum()) != archive.manifest.tissue_tiles:
                return [f"{path}: member mask/c/0/0 does not hold the manifest's count of tiles"]
            for row in range(0 if archive.generated else archive.rows):
                cols = np.flatnonzero(mask[row])
                values = archive.embeddings_of(np.full(len(cols), row), cols)
                if not np.isfinite(values).all():
                    return [f"{path}: embeddings of row {row} hold NaN or infinity"]
            _read_base(archive)
            for level in archive.latent_levels:
                count = len(archive.offsets(level))
                for first in range(0, count, 64):
                    archive.latents(level, range(first, min(first + 64, count)))
    except ArchiveError as error:
        return [str(error)]
    return []


def _read_base(archive: Archive) -> None:
    """Decode the base layer, a band of chunks at a time."""
    base = archive.base
    if base is None:
        return
    width, height = base.size
    band = archive.manifest.base.chunk if archive.manifest.base else height
    for y in range(0, height, band):
        for x in range(0, width, 4 * band):
            base.read(x, y, min(4 * band, width - x), min(band, height - y))


@dataclass(frozen=True)
class VerifyReport(Report):
    """Whether an archive is sound.

    Attributes:
        archive: its path or URL.
        bytes: its size; 0 if it is not a local file.
        problems: one line each, naming the member.
        sound: whether there are no problems.
    """

    archive: str
    bytes: int
    problems: tuple[str, ...]
    sound: bool


def verify(archive: Path | RemotePath | str, *, progress: Progress | None = None) -> VerifyReport:
    """Check every byte of an archive against its digests, and read everything in it.

    Args:
        archive: a .zldm file.
        progress: called before and after.

    A damaged file raises no error; the report lists its problems:

    Examples:
        >>> import zoomldm
        >>> report = zoomldm.verify("missing.zldm")
        >>> report.sound, len(report.problems)
        (False, 1)
    """
    path, progress = as_path(archive), progress or silent
    progress("verifying", 0, 1)
    problems = tuple(verify_archive(path))
    progress("verifying", 1, 1)
    size = path.stat().st_size if isinstance(path, Path) and path.is_file() else 0
    return VerifyReport(str(path), size, problems, not problems)


def verify_archive(path: Path | RemotePath | str) -> list[str]:
    """List an archive's problems, one line each, naming the member; [] if it is sound.

    An archive behind a URL is downloaded whole, once.

    Every byte of the file is covered: members by the manifest's digests, their headers by the
    digest of the content, the rest by those of the directory and the end. Then everything is read.

    Examples:
        >>> import zoomldm
        >>> zoomldm.verify_archive("slide.zldm")
        []
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        return _verify_remote(path)
    problems: list[str] = []
    try:
        with open_file(path) as file:
            tail = read_tail(file, path)
            raw = read_exactly(file, tail.offset, tail.size, path)
            if hashlib.sha256(raw).hexdigest() != tail.digests.directory:
                problems.append(f"{path}: the zip directory differs from its digest")
            try:
                entries = parse_directory(raw, tail, path)
                problems += _check_members(file, entries, tail, path)
            except ArchiveError as error:
                problems.append(str(error))
            if not problems and _content_digest(file, tail.offset, path) != tail.digests.content:
                problems.append(f"{path}: the content differs from its digest")
    except ArchiveError as error:
        problems.append(str(error))
    return problems or _check_meaning(path)


def _verify_remote(path: RemotePath) -> list[str]:
    try:
        with local_copy(path.url) as copy:
            return [line.replace(str(copy), path.url) for line in verify_archive(copy)]
    except RemoteError as error:
        return [str(error)]

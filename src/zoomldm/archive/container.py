"""The zip file under the format: named members, with every byte covered by a digest."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from zoomldm.archive.manifest import MANIFEST_NAME, Manifest, Member, parse_manifest
from zoomldm.archive.zipformat import (
    MAX_TAIL,
    Digests,
    Entry,
    Tail,
    build_tail,
    find_end,
    parse_directory,
    parse_tail,
)
from zoomldm.errors import ArchiveError, DamagedError
from zoomldm.files import atomic_path
from zoomldm.remote import RemoteError, RemoteFile, RemotePath, as_path

MAX_MANIFEST = 1 << 28
_START = b"PK\3\4"


class ContainerWriter:
    """Appends members to a temporary file beside `path`, hashing as it goes.

    A context manager: `path` appears, complete and flushed, when the block ends without an
    exception after `finish`; otherwise nothing is left behind.

    Raises:
        TargetError: the target can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[Member] = []
        self._entries: list[Entry] = []
        self._names: set[str] = set()
        self._content = hashlib.sha256()
        self._position = 0
        self._finished = False
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(temporary.open("wb"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is None and not self._finished:
            error = RuntimeError("the container was not finished")
            self._stack.__exit__(type(error), error, None)
            raise error
        return self._stack.__exit__(kind, error, trace)

    def _write(self, data: bytes) -> None:
        if self._file is None or self._finished:
            raise RuntimeError("the container is not open for writing")
        self._file.write(data)
        self._position += len(data)

    def add(self, name: str, data: bytes) -> Member:
        """Append a member and return its size and digest."""
        if name in self._names:
            raise ValueError(f"member {name} was added before")
        entry = Entry(name, len(data), zlib.crc32(data), self._position)
        for part in (entry.local_header(), data):
            self._write(part)
            self._content.update(part)
        self._entries.append(entry)
        self._names.add(name)
        member = Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        self.members.append(member)
        return member

    def finish(self, manifest: bytes, major: int = 1) -> None:
        """Append the manifest member, the directory, the digests and the major version."""
        last = self.add(MANIFEST_NAME, manifest)
        directory = b"".join(entry.central_header() for entry in self._entries)
        digests = Digests(
            last.sha256, hashlib.sha256(directory).hexdigest(), self._content.hexdigest()
        )
        tail = Tail(digests, len(self._entries), self._position, len(directory), major)
        self._write(directory)
        self._write(build_tail(tail))
        self._finished = True


File = FileIO | RemoteFile


def _identity(file: File) -> tuple:
    if isinstance(file, RemoteFile):
        return file.identity
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextmanager
def open_file(path: Path | RemotePath, known: tuple | None = None) -> Iterator[File]:
    """Open a file for unbuffered reading.

    Args:
        path: a file, local or behind a URL.
        known: its identity if known; it is then not requested again for a remote file.

    Raises:
        ArchiveError: missing, a folder, or not readable.
    """
    if isinstance(path, RemotePath):
        try:
            with RemoteFile(path, known) as remote:
                yield remote
        except RemoteError as error:
            raise ArchiveError(str(error)) from error
        return
    try:
        if path.is_dir():
            raise ArchiveError(f"{path}: is a folder; expected a .zldm archive")
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise ArchiveError(f"{path}: does not exist; expected a .zldm archive") from error
    except OSError as error:
        raise ArchiveError(f"{path}: can't be read ({error.strerror})") from error
    try:
        with file:
            yield file
    except OSError as error:
        raise ArchiveError(f"{path}: can't be read ({error.strerror})") from error


def read_tail(file: File, path: Path | RemotePath) -> Tail:
    """Parse the end of an open file.

    Raises:
        ArchiveError: empty, not an archive, or of a newer major version.
        DamagedError: truncated or changed.
    """
    size = _identity(file)[1]
    if size == 0:
        raise ArchiveError(f"{path}: is empty; expected a .zldm archive")
    first = max(0, size - MAX_TAIL)
    data = read_exactly(file, first, size - first, path)
    if find_end(data) < 0 and read_exactly(file, 0, min(size, 4), path) != _START[:size]:
        raise ArchiveError(f"{path}: is not a .zldm archive")
    return parse_tail(data, size, path)


def read_exactly(file: File, offset: int, size: int, path: Path | RemotePath) -> bytes:
    """Read `size` bytes at `offset`.

    Raises:
        DamagedError: the file ends too early.
    """
    file.seek(offset)
    parts = []
    while size > 0:
        part = file.read(size)
        if not part:
            raise DamagedError(f"{path}: ends too early (cut off?); copy or compress it again")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def compare_members(manifest: Manifest, entries: dict[str, Entry]) -> list[str]:
    """Differences between the manifest's list and the directory, one line each; [] if none."""
    listed = {member.name: member for member in manifest.members}
    problems = []
    if len(listed) != len(manifest.members):
        problems.append("the manifest lists a member twice")
    for name, member in listed.items():
        if name == MANIFEST_NAME:
            problems.append("the manifest lists itself")
        elif name not in entries:
            problems.append(f"member {name} is listed but missing")
        elif entries[name].size != member.size:
            problems.append(f"member {name} has {entries[name].size} bytes, expected {member.size}")
    problems += [
        f"member {name} is not listed"
        for name in entries
        if name not in listed and name != MANIFEST_NAME
    ]
    return problems


class Container:
    """A read-only view of the members; every byte returned was checked against its digest.

    No handle stays open: each read opens the file, checks that it is still the one opened first,
    and closes it. A container may therefore be pickled, forked and shared by threads.

    Raises:
        ArchiveError: not an archive, of a newer version, or malformed.
        DamagedError: directory or manifest differ from their digests or from each other.
    """

    def __init__(self, path: Path | RemotePath | str) -> None:
        self.path = as_path(path)
        with open_file(self.path) as file:
            self._identity = _identity(file)
            tail = read_tail(file, self.path)
            raw = read_exactly(file, tail.offset, tail.size, self.path)
            if hashlib.sha256(raw).hexdigest() != tail.digests.directory:
                raise DamagedError(f"{self.path}: the zip directory differs from its digest")
            self.entries = parse_directory(raw, tail, self.path)
            self.manifest = self._read_manifest(file, tail)
        problems = compare_members(self.manifest, self.entries)
        if problems:
            raise DamagedError(f"{self.path}: {problems[0]}")
        self.digests = tail.digests
        self.file_bytes = self._identity[1]
        self._listed = {member.name: member for member in self.manifest.members}
        self._verified: set[str] = set()

    def _read_manifest(self, file: File, tail: Tail) -> Manifest:
        entry = self.entries.get(MANIFEST_NAME)
        if entry is None:
            raise DamagedError(f"{self.path}: member {MANIFEST_NAME} is missing")
        if entry.size > MAX_MANIFEST:
            raise ArchiveError(
                f"{self.path}: member {MANIFEST_NAME} of {entry.size} bytes is over the limit of "
                f"{MAX_MANIFEST}"
            )
        data = read_member(file, entry, tail.digests.manifest, self.path)
        return parse_manifest(data, self.path)

    def __contains__(self, name: str) -> bool:
        return name in self._listed

    def size_of(self, name: str) -> int:
        """Size of a member in bytes, 0 if it does not exist."""
        return self._listed[name].size if name in self._listed else 0

    def __getstate__(self) -> dict:
        # Members verified here may be damaged where the copy is unpickled.
        return self.__dict__ | {"_verified": set()}

    @contextmanager
    def open(self) -> Iterator["Handle"]:
        """Open a handle for one or more reads.

        Raises:
            ArchiveError: the file was replaced or changed since it was first opened.
        """
        with open_file(self.path, self._identity) as file:
            if _identity(file) != self._identity:
                raise ArchiveError(f"{self.path}: changed since it was opened; open it again")
            yield Handle(self, file)

    def read(self, name: str) -> bytes:
        """Read one member's data; see `Handle.read`."""
        with self.open() as handle:
            return handle.read(name)


class Handle:
    """One open file of a container."""

    def __init__(self, container: Container, file: File) -> None:
        self._container = container
        self._file = file

    def read(self, name: str) -> bytes:
        """Read one member's data.

        Raises:
            DamagedError: its bytes or its local header differ from those recorded.
        """
        container = self._container
        entry, member = container.entries[name], container._listed[name]
        data = read_member(self._file, entry, member.sha256, container.path)
        container._verified.add(name)
        return data

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset` of a member; its first read checks the whole member."""
        container = self._container
        if name not in container._verified:
            return self.read(name)[offset : offset + size]
        entry = container.entries[name]
        start = entry.end - entry.size + offset
        return read_exactly(self._file, start, size, container.path)


def read_member(file: File, entry: Entry, sha256: str, path: Path | RemotePath) -> bytes:
    """Read a member and check its local header and digest.

    Raises:
        DamagedError: one of them differs, or the file ends too early.
    """
    header = entry.local_header()
    raw = read_exactly(file, entry.offset, len(header) + entry.size, path)
    data = raw[len(header) :]
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(f"{path}: member {entry.name} differs from its digest")
    if raw[: len(header)] != header:
        raise DamagedError(f"{path}: the zip header of member {entry.name} was changed")
    return data

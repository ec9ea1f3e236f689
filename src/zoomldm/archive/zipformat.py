"""The bytes of a .zldm zip: records, comment and their strict parsing. No file is opened here.

Every record has one canonical form, so that parsing can compare rather than tolerate variants:
members are uncompressed, named in ASCII, dated 1980-01-01, adjacent and in directory order.
See docs/archive-format.md.
"""

import hashlib
import re
import struct
from dataclasses import dataclass

from zoomldm.errors import ArchiveError, DamagedError

MAJOR = 3  # the newest major version that can be read
MAX_DIRECTORY = 1 << 28
MAX_TAIL = 22 + 65535 + 76

_U16, _U32 = 0xFFFF, 0xFFFFFFFF
_DATE = 0x0021  # 1980-01-01, the zip epoch
_MODE = 0o100644 << 16
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_COMMENT = re.compile(
    rb"ZLDM/(?P<major>[1-9][0-9]{0,3}) manifest=(?P<manifest>[0-9a-f]{64}) "
    rb"directory=(?P<directory>[0-9a-f]{64}) content=(?P<content>[0-9a-f]{64}) check="
)
_CHECK = 64


@dataclass(frozen=True)
class Entry:
    """One member as listed in the zip directory; `offset` (bytes) is that of its local header."""

    name: str
    size: int
    crc: int
    offset: int

    def local_header(self) -> bytes:
        """The only valid local header of this member."""
        name = self.name.encode("ascii")
        return (
            _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name), 0)
            + name
        )

    def central_header(self) -> bytes:
        """The only valid directory entry of this member."""
        name = self.name.encode("ascii")
        far = self.offset >= _U32
        extra = struct.pack("<2HQ", 1, 8, self.offset) if far else b""
        version = 45 if far else 20
        return (
            _CENTRAL.pack(
                b"PK\1\2",
                3 << 8 | version,
                version,
                0,
                0,
                0,
                _DATE,
                self.crc,
                self.size,
                self.size,
                len(name),
                len(extra),
                0,
                0,
                0,
                _MODE,
                _U32 if far else self.offset,
            )
            + name
            + extra
        )

    @property
    def end(self) -> int:
        """Offset of the first byte after the member's data."""
        return self.offset + _LOCAL.size + len(self.name) + self.size


@dataclass(frozen=True)
class Digests:
    """SHA-256 (hex) of the manifest member, of the directory, and of all bytes before it."""

    manifest: str
    directory: str
    content: str


@dataclass(frozen=True)
class Tail:
    """The information at the end of the file: digests, place of the directory (bytes), version."""

    digests: Digests
    count: int
    offset: int
    size: int
    major: int = 1


def build_tail(tail: Tail) -> bytes:
    """Everything after the directory: zip64 records if needed, end record, comment."""
    head = (
        f"ZLDM/{tail.major} manifest={tail.digests.manifest} directory={tail.digests.directory} "
        f"content={tail.digests.content} check="
    ).encode("ascii")
    far = tail.count >= _U16 or tail.size >= _U32 or tail.offset >= _U32
    records = b""
    if far:
        records = _END64.pack(
            b"PK\6\6",
            _END64.size - 12,
            3 << 8 | 45,
            45,
            0,
            0,
            tail.count,
            tail.count,
            tail.size,
            tail.offset,
        ) + _LOCATOR.pack(b"PK\6\7", 0, tail.offset + tail.size, 1)
    count = min(tail.count, _U16)
    end = _END.pack(
        b"PK\5\6",
        0,
        0,
        count,
        count,
        min(tail.size, _U32),
        min(tail.offset, _U32),
        len(head) + _CHECK,
    )
    start = records + end + head
    return start + hashlib.sha256(start).hexdigest().encode("ascii")


def find_end(data: bytes) -> int:
    """Index of the zip end record whose comment ends exactly at the end of `data`, or -1."""
    start = data.rfind(b"PK\5\6")
    while start >= 0:
        length = int.from_bytes(data[start + 20 : start + 22], "little")
        if start + _END.size + length == len(data):
            return start
        start = data.rfind(b"PK\5\6", 0, start)
    return -1


def parse_tail(data: bytes, file_size: int, path: object) -> Tail:
    """Parse the last bytes of a file (MAX_TAIL of them, or all).

    Raises:
        ArchiveError: not an archive, or one of a newer major version.
        DamagedError: an archive with its end cut off or changed.
    """
    start = find_end(data)
    ours = any(word in data[-400:] for word in (b"ZLDM/", b" directory=", b" check="))
    if start < 0:
        raise DamagedError(f"{path}: its end is damaged or cut off; copy or compress it again")
    if not ours:
        raise ArchiveError(f"{path}: is a zip file, but not a .zldm archive")
    match = _COMMENT.match(data, start + _END.size)
    end = _END.unpack_from(data, start)
    count, size, offset = end[4], end[5], end[6]
    first = start
    if (count == _U16 or size == _U32 or offset == _U32) and start >= 76:
        first = start - _END64.size - _LOCATOR.size
        end64 = _END64.unpack_from(data, first)
        count, size, offset = end64[7], end64[8], end64[9]
    check = data[-_CHECK:]
    if hashlib.sha256(data[first:-_CHECK]).hexdigest().encode("ascii") != check:
        raise DamagedError(f"{path}: the end of the zip (comment) differs from its digest")
    if match is None:
        raise DamagedError(f"{path}: the zip comment is not of a form that version {MAJOR} knows")
    if int(match["major"]) > MAJOR:
        raise ArchiveError(
            f"{path}: is of format version {int(match['major'])}; this zoomldm reads version "
            f"{MAJOR}; update zoomldm"
        )
    digests = Digests(*(match[k].decode("ascii") for k in ("manifest", "directory", "content")))
    tail = Tail(digests, count, offset, size, int(match["major"]))
    if offset + size + len(data) - first != file_size or build_tail(tail) != data[first:]:
        raise DamagedError(f"{path}: the zip end record does not fit the file")
    if size > MAX_DIRECTORY:
        raise ArchiveError(
            f"{path}: its zip directory of {size} bytes is over the limit of {MAX_DIRECTORY}"
        )
    return tail


def _parse_entry(data: bytes, at: int) -> Entry:
    fields = _CENTRAL.unpack_from(data, at)
    length, offset = fields[10], fields[16]
    name = data[at + _CENTRAL.size : at + _CENTRAL.size + length].decode("ascii")
    if offset == _U32 and fields[11] == 12:
        (offset,) = struct.unpack_from("<Q", data, at + _CENTRAL.size + length + 4)
    return Entry(name, fields[9], fields[7], offset)


def parse_directory(data: bytes, tail: Tail, path: object) -> dict[str, Entry]:
    """Entries by name, in file order.

    Raises:
        ArchiveError: an entry is not in canonical form: compressed, duplicated, with a path-like
            name, or not adjacent to its neighbours.
    """
    entries: dict[str, Entry] = {}
    at = expected = 0
    try:
        for _ in range(tail.count):
            entry = _parse_entry(data, at)
            raw = entry.central_header()
            if not _NAME.fullmatch(entry.name):
                raise ArchiveError(f"{path}: refused member name {entry.name!r}")
            if entry.name in entries:
                raise ArchiveError(f"{path}: member {entry.name} is there twice")
            if data[at : at + len(raw)] != raw or entry.offset != expected:
                raise ArchiveError(
                    f"{path}: member {entry.name} is not plainly stored (compressed, encrypted or "
                    "not where expected)"
                )
            entries[entry.name] = entry
            at, expected = at + len(raw), entry.end
    except (struct.error, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path}: the zip directory is malformed") from error
    if at != len(data) or expected != tail.offset:
        raise ArchiveError(f"{path}: the zip directory does not cover the file")
    return entries

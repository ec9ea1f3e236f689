"""The zip records: one canonical form, everything else refused."""

import hashlib
import struct
import zipfile

import pytest

from zoomldm.archive.zipformat import (
    MAX_TAIL,
    Digests,
    Entry,
    Tail,
    build_tail,
    parse_directory,
    parse_tail,
)
from zoomldm.errors import ArchiveError, DamagedError

_DIGESTS = Digests("a" * 64, "b" * 64, "c" * 64)


def _directory(*entries: Entry) -> tuple[bytes, Tail]:
    data = b"".join(entry.central_header() for entry in entries)
    return data, Tail(_DIGESTS, len(entries), entries[-1].end, len(data))


@pytest.mark.parametrize(
    ("count", "offset", "size"),
    [(1, 50, 60), (70_000, 1 << 20, 1 << 22), (5, 1 << 33, 400), (65_535, 9, 9)],
)
def test_tail_comes_back(count, offset, size):
    tail = Tail(_DIGESTS, count, offset, size)
    data = build_tail(tail)
    assert len(data) <= MAX_TAIL
    assert parse_tail(data, offset + size + len(data), "x") == tail
    assert parse_tail(b"other bytes before" + data, offset + size + len(data), "x") == tail


def test_every_bit_of_the_tail_counts():
    tail = Tail(_DIGESTS, 3, 1 << 33, 60)
    data = build_tail(tail)
    size = tail.offset + tail.size + len(data)
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArchiveError):
            parse_tail(bytes(broken), size, "x")


def test_directory_comes_back_beyond_4_gib():
    entries, offset = [], 0
    for name in ("a/zarr.json", "a/c/0", "a/c/1", "zarr.json"):
        entries.append(Entry(name, 0xFFFFFFF0, 7, offset))
        offset = entries[-1].end
    data, tail = _directory(*entries)
    assert list(parse_directory(data, tail, "x").values()) == entries


def test_other_zip_readers_find_members_beyond_4_gib(tmp_path):
    entries = [Entry("a", 0xFFFFFFF0, 0, 0), Entry("b", 40, 0, 0xFFFFFFF0 + 31)]
    data, tail = _directory(*entries)
    with (tmp_path / "far.zip").open("wb") as file:
        file.truncate(tail.offset)
        file.seek(tail.offset)
        file.write(data + build_tail(tail))
    with zipfile.ZipFile(tmp_path / "far.zip") as zipped:
        assert [(i.filename, i.header_offset) for i in zipped.infolist()] == [
            (e.name, e.offset) for e in entries
        ]


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a//b", "a\\b", "a/", "", "a/../b", ".a", "C:/a", "a\nb", "a/./b"]
)
def test_refuses_path_like_names(name):
    with pytest.raises(ArchiveError, match="refused member name"):
        parse_directory(*_directory(Entry(name, 1, 0, 0)), "x")


def test_refuses_a_member_twice():
    first = Entry("a", 1, 0, 0)
    with pytest.raises(ArchiveError, match="member a is there twice"):
        parse_directory(*_directory(first, Entry("a", 1, 0, first.end)), "x")


@pytest.mark.parametrize("at", [8, 10, 24, 34, 38])  # flags, method, sizes, disk, attributes
def test_refuses_what_is_not_plainly_stored(at):
    data, tail = _directory(Entry("a", 1, 0, 0))
    changed = bytearray(data)
    struct.pack_into("<H", changed, at, 8)
    with pytest.raises(ArchiveError, match="member a is not plainly stored"):
        parse_directory(bytes(changed), tail, "x")


def test_refuses_gaps_overlaps_and_a_short_directory():
    with pytest.raises(ArchiveError, match="not plainly stored"):
        parse_directory(*_directory(Entry("a", 1, 0, 5)), "x")
    data, tail = _directory(Entry("a", 1, 0, 0))
    with pytest.raises(ArchiveError, match="malformed"):
        parse_directory(data + data[:20], Tail(_DIGESTS, 2, tail.offset, len(data) + 20), "x")
    with pytest.raises(ArchiveError, match="does not cover"):
        parse_directory(data, Tail(_DIGESTS, 1, tail.offset + 3, len(data)), "x")


def test_a_newer_major_version_says_update():
    head = build_tail(Tail(_DIGESTS, 1, 5, 5))[:-64].replace(b"ZLDM/1", b"ZLDM/4")
    data = head + hashlib.sha256(head).hexdigest().encode()
    with pytest.raises(ArchiveError, match=r"version 4.*update zoomldm"):
        parse_tail(data, 10 + len(data), "x")
    with pytest.raises(DamagedError):
        parse_tail(head + b"0" * 64, 10 + len(data), "x")

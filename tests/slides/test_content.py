"""Slides are told apart by what they hold."""

import hashlib

import pytest

from zoomldm.slides import content
from zoomldm.slides.content import content_digest


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_small_files_are_read_whole(tmp_path, size):
    path = tmp_path / "a"
    data = bytes(i % 251 for i in range(size))
    path.write_bytes(data)
    expected = hashlib.sha256(b"%d\n" % size + data).hexdigest()
    assert content_digest(path) == expected
    for at in {0, size // 2, size - 1} if size else ():
        path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
        assert content_digest(path) != expected


def test_large_files_are_read_in_places(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MOST_READ_WHOLE", 1000)
    monkeypatch.setattr(content, "PLACES", 5)
    monkeypatch.setattr(content, "BLOCK", 100)
    path = tmp_path / "a"
    data = bytes(2000)
    path.write_bytes(data)
    before = content_digest(path)
    for at, read in ((0, True), (99, True), (150, False), (475, True), (1900, True), (1999, True)):
        path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
        assert (content_digest(path) != before) == read, at
    path.write_bytes(data + b"\0")
    assert content_digest(path) != before


def test_pixels_in_other_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"index")
    assert content_digest(path, "mirax", "0a") != content_digest(path, "mirax", "0b")
    assert content_digest(path, "aperio", "0a") == content_digest(path)

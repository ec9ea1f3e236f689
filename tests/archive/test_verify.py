"""Damage anywhere in the file is noticed."""

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from archive.making import make_archive, read_everything
from zoomldm.archive import open_archive, verify_archive
from zoomldm.errors import ArchiveError, DamagedError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.zldm"
    make_archive(path)
    return path


def _reads_right_or_raises(path: Path, expected: list[np.ndarray]) -> bool:
    """True if reading everything raised; fails if it gave other numbers."""
    try:
        found = read_everything(path)
    except ArchiveError as error:
        assert "\n" not in str(error)
        return True
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    return False


def _places(path: Path) -> list[int]:
    """Bits: 70 anywhere, 30 in what holds the zip together."""
    rng, size = random.Random(5), path.stat().st_size
    with zipfile.ZipFile(path) as file:
        headers = [info.header_offset for info in file.infolist()]
        end = file.start_dir
    bits = [rng.randrange(8 * size) for _ in range(70)]
    bits += [8 * rng.choice(headers) + rng.randrange(8 * 40) for _ in range(15)]
    return bits + [rng.randrange(8 * end, 8 * size) for _ in range(15)]


def test_100_flipped_bits_are_all_noticed(sound, tmp_path):
    expected, whole = read_everything(sound), sound.read_bytes()
    noticed = 0
    for bit in _places(sound):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path = tmp_path / "b.zldm"
        path.write_bytes(broken)
        assert verify_archive(path), f"bit {bit}"
        noticed += _reads_right_or_raises(path, expected)
    # Only the metadata of the two groups is never read.
    assert noticed >= 95


def test_every_byte_of_a_small_archive_counts(tmp_path):
    path = tmp_path / "a.zldm"
    make_archive(path, 600, 600, 3, 2, latents=False)
    expected, whole = read_everything(path), path.read_bytes()
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        assert verify_archive(path), f"byte {place}"
        assert _reads_right_or_raises(path, expected), f"byte {place}"


def test_20_cuts_and_an_addition_are_errors(sound, tmp_path):
    rng, whole, path = random.Random(1), sound.read_bytes(), tmp_path / "b.zldm"
    lengths = [rng.randrange(1, len(whole)) for _ in range(20)] + [1, 4, 30, len(whole) - 1]
    lengths += [len(whole) - n for n in (64, 100, 280, 300)]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            open_archive(path)
        assert verify_archive(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedError):
        open_archive(path)
    path.write_bytes(b"x" + whole)
    with pytest.raises(DamagedError):
        open_archive(path)


def test_a_chunk_renamed_in_the_directory_is_named(sound, tmp_path):
    whole, path = sound.read_bytes(), tmp_path / "b.zldm"
    name = b"embeddings/c/0/1/0"
    place = whole.rindex(name)  # the manifest lies before the directory
    path.write_bytes(whole[:place] + name[:-3] + b"7/0" + whole[place + len(name) :])
    with pytest.raises(DamagedError, match="directory"):
        open_archive(path)
    assert any("embeddings/c/0/1/0 is listed but missing" in p for p in verify_archive(path))


def test_a_damaged_chunk_costs_only_what_it_holds(sound, tmp_path):
    with zipfile.ZipFile(sound) as file:
        offset = file.getinfo("embeddings/c/0/0/0").header_offset
    broken = bytearray(sound.read_bytes())
    broken[offset + 100] ^= 4
    path = tmp_path / "b.zldm"
    path.write_bytes(broken)
    with open_archive(path) as archive, open_archive(sound) as other:
        np.testing.assert_array_equal(archive.grid(2, 0, 20), other.grid(2, 0, 20))
        with pytest.raises(DamagedError, match="member embeddings/c/0/0/0"):
            archive.embeddings(0, 16, 0, 16)
    assert verify_archive(path) == [f"{path}: member embeddings/c/0/0/0 differs from its digest"]


def test_plain_zip_tools_find_nothing_wrong(sound):
    with zipfile.ZipFile(sound) as file:
        assert file.testzip() is None
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())

"""Archives behind URLs: only the bytes that are needed, and clear errors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from archive.making import make_archive

from zoomldm.archive import open_archive, verify_archive
from zoomldm.cohort.items import ARCHIVES, find_items
from zoomldm.errors import ArchiveError
from zoomldm.remote import RemoteError, RemotePath, as_path, download, upload

pytest.importorskip("obstore")


@pytest.fixture
def local(tmp_path) -> Path:
    """An archive of 1 MB, of which most is latents and embeddings far from each other."""
    path = tmp_path / "a.zldm"
    make_archive(path, 60_000, 60_000, tiles=9000, dim=96)
    return path


@pytest.mark.parametrize("root", ["http", "s3"])
def test_reads_what_it_needs(bucket, local, root) -> None:
    data = local.read_bytes()
    bucket.files["b/in/a.zldm"] = data
    url = f"{bucket.url}/b/in/a.zldm" if root == "http" else "s3://b/in/a.zldm"
    with open_archive(url) as remote, open_archive(local) as here:
        opened = bucket.sent
        assert remote.file_bytes == len(data) and remote.digest == here.digest
        assert opened < 200_000 < len(data) / 3
        assert bucket.asked.count(("HEAD", "b/in/a.zldm")) == 1
        np.testing.assert_array_equal(remote.embeddings(0, 8, 0, 8), here.embeddings(0, 8, 0, 8))
        assert bucket.sent - opened < len(data) / 4
        assert bucket.asked.count(("HEAD", "b/in/a.zldm")) == 1
        copy = pickle.loads(pickle.dumps(remote))
        np.testing.assert_array_equal(copy.mask, here.mask)


def test_verify_fetches_it_once(bucket, local) -> None:
    data = local.read_bytes()
    bucket.files["b/a.zldm"] = data
    assert verify_archive("s3://b/a.zldm") == [] and bucket.sent == len(data)
    bucket.files["b/a.zldm"] = data[:-100]
    (problem,) = verify_archive("s3://b/a.zldm")
    assert problem.startswith("s3://b/a.zldm: ") and "\n" not in problem


def test_an_archive_that_changes_is_told(bucket, local) -> None:
    bucket.files["b/a.zldm"] = local.read_bytes()
    with open_archive("s3://b/a.zldm") as remote:
        bucket.files["b/a.zldm"] = local.read_bytes()[::-1]
        with pytest.raises(ArchiveError, match="changed since it was opened"):
            remote.embeddings(0, 8, 0, 8)


def test_uploads_appear_whole(bucket, local, tmp_path) -> None:
    upload(local, "s3://b/out/a.zldm")
    assert bucket.files["b/out/a.zldm"] == local.read_bytes()
    download("s3://b/out/a.zldm", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()


def test_folders(bucket) -> None:
    bucket.files |= {"b/in/a.zldm": b"1", "b/in/c.zldm": b"2", "b/in/t.csv": b"3"}
    found = find_items(["s3://b/in/"], ARCHIVES, "archives")
    assert [i.source for i in found.items] == ["s3://b/in/a.zldm", "s3://b/in/c.zldm"]
    assert [i.key for i in found.items] == ["a", "c"] and not found.named
    with pytest.raises(RemoteError, match="web servers don't list folders"):
        find_items([f"{bucket.url}/b/in/"], ARCHIVES, "archives")


def test_what_goes_wrong_is_one_line(bucket, local) -> None:
    bucket.files["b/a.zldm"] = local.read_bytes()
    for url, expected in (
        ("s3://b/none.zldm", "does not exist"),
        ("ftp://b/a.zldm", "URLs of ftp aren't read"),
        ("s3:///a.zldm", "with a bucket or host"),
    ):
        with pytest.raises(ArchiveError) as error:
            open_archive(url)
        assert expected in str(error.value) and "\n" not in str(error.value)
    bucket.refuse = 403
    with pytest.raises(ArchiveError, match="credentials are missing, expired"):
        open_archive("s3://b/a.zldm")


def test_paths() -> None:
    path = as_path("s3://b/x/a%20b.turn1.zldm?version=3")
    assert isinstance(path, RemotePath)
    assert (path.name, path.stem, path.suffix) == ("a b.turn1.zldm", "a b.turn1", ".zldm")
    assert as_path("a/b.zldm") == Path("a/b.zldm") and as_path(path) is path

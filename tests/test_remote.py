"""Archives behind URLs: only the bytes that are needed, and clear errors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from archive.making import make_archive, make_header

from zoomldm.archive import Encoder, open_archive, verify_archive
from zoomldm.archive.writer import write_archive
from zoomldm.cohort.items import ARCHIVES, find_items
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.folder import check_archives, find_sources
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.pipeline import build_pipeline
from zoomldm.remote import (
    RemoteError,
    RemotePath,
    UnreachableError,
    _store,
    as_path,
    download,
    size_of,
    upload,
)
from zoomldm.rendering import DecompressOptions, decompress
from zoomldm.rendering.slide import open_slide

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


@pytest.fixture(scope="module")
def tiny():
    return build_pipeline("tiny")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny) -> bytes:
    """An archive of `tiny`'s, of 1 MB: embeddings, latents of two levels, a base layer."""
    path, rng = tmp_path_factory.mktemp("whole") / "a.zldm", np.random.default_rng(0)
    cells = np.sort(rng.permutation(118 * 118)[:9000])
    dim = tiny.embedding_dim
    encoder = Encoder(id="tiny", digest=tiny.digest("patch_encoder"), dim=dim)
    values = rng.standard_normal((len(cells), dim)).astype(np.float32)
    shape = 4, 8, 8
    latents = {
        k: (
            rng.integers(0, 60, (600, 2)).astype(np.int32),
            rng.standard_normal((600, *shape)).astype(np.float16),
        )
        for k in (0, 1)
    }
    write_archive(
        path,
        make_header(30_000, 30_000, dim).model_copy(update={"encoder": encoder}),
        np.stack([cells // 118, cells % 118], 1),
        values,
        values[0],
        base=(4, rng.integers(0, 255, (1875, 1875, 3)).astype(np.uint8)),
        base_codec="jpeg",
        base_quality=20,
        latents=latents,
    )
    return path.read_bytes()


def test_info_reads_the_directory(bucket, whole, capsys) -> None:
    from zoomldm.cli.info import info

    bucket.files["b/a.zldm"] = whole
    info("s3://b/a.zldm", json=True)
    assert '"tissue_tiles": 9000' in capsys.readouterr().out
    assert bucket.sent < len(whole) / 4 and len(bucket.asked) <= 4


def test_decompress_reads_what_lies_under_a_region(bucket, whole, tiny, tmp_path) -> None:
    bucket.files["b/a.zldm"] = whole
    options = DecompressOptions(level="2.5x", region=(8192, 8192, 2048, 2048), steps=4)
    report = decompress("s3://b/a.zldm", tmp_path / "a.png", options, pipeline=tiny)
    assert (
        report.provenance["archive"] == "a.zldm"
        and report.provenance["patches"]["2.5x"]["generated"]
    )
    assert bucket.sent < len(whole) / 2


def test_a_slide_reads_what_is_looked_at(bucket, whole, tiny) -> None:
    bucket.files["b/a.zldm"] = whole
    with open_slide("s3://b/a.zldm", pipeline=tiny) as slide:
        opened = bucket.sent
        slide.read_region((8192, 8192), 4, (200, 200))  # stored
        first = bucket.sent - opened
        assert 0 < first < len(whole) / 4
        slide.read_region((8192, 8192), 4, (200, 200))
        assert bucket.sent - opened == first


def test_training_reads_what_it_draws(bucket, whole, tiny, tmp_path) -> None:
    bucket.files["b/in/a.zldm"] = whole
    (archive,) = find_sources("s3://b/in/", True, "diffusion").values()
    check_archives(tiny, [archive], latents=False)
    begun = bucket.sent
    assert begun < len(whole) / 4
    patches = ArchivePatches([archive], 0.1, memory=0)
    chosen = patches.patches[1][:8]
    (tmp_path / "a.zldm").write_bytes(whole)
    (local,) = find_sources(tmp_path, True, "diffusion").values()
    here = ArchivePatches([local], 0.1, memory=0)
    np.testing.assert_array_equal(patches.latents(1, chosen), here.latents(1, chosen))
    np.testing.assert_array_equal(patches.grids(1, chosen), here.grids(1, chosen))
    assert bucket.sent - begun < len(whole) / 2
    for url, archives, expected in (
        ("s3://b/in/", False, "slides, which are read from disk"),
        ("s3://b/in", True, "which ends in /"),
        ("s3://b/none/", True, "holds no archives"),
        (f"{bucket.url}/b/in/", True, "web servers don't list folders"),
    ):
        with pytest.raises((ConfigError, RemoteError), match=expected):
            find_sources(url, archives, "diffusion")


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
    assert size_of("s3://b/a.zldm") == local.stat().st_size and size_of("s3://b/none") is None
    for status in (400, 401, 403):  # 400 is what S3 answers to a token that has expired
        bucket.refuse = status
        with pytest.raises(ArchiveError, match="credentials are missing, expired"):
            open_archive("s3://b/a.zldm")


def test_a_bucket_that_does_not_answer(bucket, local, monkeypatch) -> None:
    bucket.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    _store.cache_clear()
    with pytest.raises(UnreachableError) as error:
        upload(local, "s3://b/a.zldm")
    assert "can't be reached" in str(error.value) and "\n" not in str(error.value)


def test_paths() -> None:
    path = as_path("s3://b/x/a%20b.turn1.zldm?version=3")
    assert isinstance(path, RemotePath)
    assert (path.name, path.stem, path.suffix) == ("a b.turn1.zldm", "a b.turn1", ".zldm")
    assert as_path("a/b.zldm") == Path("a/b.zldm") and as_path(path) is path

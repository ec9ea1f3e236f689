"""Reading: right numbers, or an error that says what is wrong."""

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from archive.making import forge, make_archive
from zoomldm.archive import Archive, open_archive, verify_archive
from zoomldm.errors import ArchiveError, DamagedError

_GOLDEN = Path(__file__).with_name("golden-1.0.zldm")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "a.zldm"
    return path, make_archive(path)


def test_a_file_of_version_1_0_stays_readable():
    with open_archive(_GOLDEN) as archive:
        assert archive.manifest.version == "1.0"
        assert (archive.rows, archive.cols, archive.dim) == (9, 11, 6)
        values = archive.embeddings(0, archive.rows, 0, archive.cols).astype("<f4")
        assert hashlib.sha256(values.tobytes()).hexdigest() == (
            "01d9198ad0d592c90110091fb090c5bce75ac6c292a18063ef3d33d7f5dee6a3"
        )
        assert archive.latents(0, [3, 1]).shape == (2, 4, 8, 8)
        assert archive.latent_levels == [0, 3]
    assert verify_archive(_GOLDEN) == []


@pytest.mark.parametrize(
    ("version", "digest"),
    [
        ("1.2", "efe6549f2e0da5e744beed175208e98714b889b26a0b9d145a33c0299c81c067"),
        ("2.0", "c76f116fd684ff790229892d0742eda75790a6285a37aeac5f4e0d4b530f7b16"),
    ],
)
def test_files_with_a_base_layer_stay_readable(version, digest):
    path = _GOLDEN.with_name(f"golden-{version}.zldm")
    with open_archive(path) as archive:
        assert archive.manifest.version == version
        values = archive.embeddings(0, archive.rows, 0, archive.cols).astype("<f4")
        assert hashlib.sha256(values.tobytes()).hexdigest() == digest
        base = archive.base
        assert base is not None
        assert (base.level, base.size, base.chunk) == (4, (176, 144), (64, 64))
        pixels = base.read(0, 0, 176, 144)
    assert verify_archive(path) == []
    with open_archive(_GOLDEN.with_name("golden-1.2.zldm")) as lossless:
        assert lossless.base is not None
        exact = lossless.base.read(0, 0, 176, 144)
    if version == "1.2":  # lossless
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == (
            "8db02eec4d8fe546e5e22989d43053318450b0ceab56d58d8e59a0aa59ede394"
        )
    assert np.abs(pixels.astype(int) - exact).mean() < 4
    np.testing.assert_array_equal((pixels == 255).all(2), (exact == 255).all(2))


@pytest.mark.parametrize(("level", "row", "col"), [(0, 3, 4), (2, -3, 1), (5, -7, 20), (7, 0, 0)])
def test_grid_is_a_view_on_the_whole(example, level, row, col):
    with open_archive(example[0]) as archive:
        side = 2**level
        whole = archive.embeddings(-8, 140, -8, 200)
        grid = archive.grid(level, row, col)
        assert grid.shape == (side, side, archive.dim)
        assert grid.dtype == np.float32
        part = whole[row + 8 : row + 8 + side, col + 8 : col + 8 + side]
        np.testing.assert_array_equal(grid, part)


def test_geometry_and_metadata(example):
    with open_archive(example[0]) as archive:
        assert archive.size == (9000, 5000)
        assert (archive.rows, archive.cols, archive.dim) == (20, 36, 48)
        assert archive.manifest.tissue_tiles == 120
        assert archive.file_bytes == example[0].stat().st_size
        assert archive.manifest.quantisation.cosine_min > 0.999
        assert archive.manifest.slide.mpp_source == "openslide.mpp"


def test_overview_is_the_picture(example):
    with open_archive(example[0]) as archive:
        level, picture = archive.overview()
        assert level == 5
        wide = np.abs(picture[:50, :50].astype(int) - example[1]["overview"][:50, :50])
        assert wide.mean() < 8
        assert archive.overview_bytes().startswith(b"\xff\xd8")


def test_without_overview_and_latents(tmp_path):
    make_archive(tmp_path / "a", overview=False, latents=False)
    with open_archive(tmp_path / "a") as archive:
        assert archive.overview() is None
        assert archive.latent_levels == []
        with pytest.raises(ArchiveError, match="--for-training"):
            archive.latents(0, [0])


def test_travels_between_processes(example):
    with open_archive(example[0]) as archive:
        copy = pickle.loads(pickle.dumps(archive))
        np.testing.assert_array_equal(copy.grid(3, 1, 2), archive.grid(3, 1, 2))
        np.testing.assert_array_equal(copy.latents(0, [2]), archive.latents(0, [2]))


def test_threads_read_the_same(example):
    with open_archive(example[0]) as archive, ThreadPoolExecutor(8) as pool:
        whole = archive.embeddings(0, 40, 0, 60)
        places = [(r, c) for r in range(0, 20, 3) for c in range(0, 36, 3)]
        for (row, col), grid in zip(
            places, pool.map(lambda p: Archive(example[0]).grid(2, *p), places), strict=True
        ):
            np.testing.assert_array_equal(grid, whole[row : row + 4, col : col + 4])
        assert len(list(pool.map(lambda i: archive.latents(0, [i % 11]), range(50)))) == 50


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "a.zldm"
    make_archive(path)
    with open_archive(path) as archive:
        archive.grid(0, 0, 0)
        make_archive(path, seed=1)
        with pytest.raises(ArchiveError, match="changed since"):
            archive.latents(0, [0])


def test_closed_is_closed(example):
    archive = open_archive(example[0])
    archive.close()
    with pytest.raises(ArchiveError, match="closed"):
        archive.grid(0, 0, 0)


def test_wrong_indices_are_refused(example):
    with open_archive(example[0]) as archive:
        with pytest.raises(IndexError):
            archive.latents(0, [11])
        with pytest.raises(IndexError):
            archive.latents(0, [-1])
        with pytest.raises(ArchiveError, match="only of"):
            archive.offsets(5)


def _zip_of_text(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "x" * 400)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.touch(), "is empty"),
        (lambda p: p.write_bytes(b"x"), "is not a .zldm"),
        (lambda p: p.write_bytes(b"\xff" * 100_000), "is not a .zldm"),
        (_zip_of_text, "but not a .zldm"),
    ],
)
def test_what_is_no_archive(tmp_path, make, said):
    path = tmp_path / "b.zldm"
    make(path)
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert verify_archive(path) == [str(caught.value)]


def _set(*keys):
    """A change of one value, at keys[:-1], in the manifest."""

    def change(root: dict) -> None:
        for key in ("attributes", *keys[:-2]):
            root = root[key]
        root[keys[-2]] = keys[-1]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("version", "4.0"), "version 4.0.*update zoomldm"),
        (_set("version", "one"), "version 'one'"),
        (_set("format", "zarr"), "not a .zldm"),
        (_set("members", 7), "no list of members"),
        (_set("slide", "size", [1 << 31, 1 << 31]), "grid"),
        (_set("slide", "mpp_x", -1), "mpp_x"),
        (_set("slide", "mpp_x", "fine"), "mpp_x"),
        (_set("grid", "rows", 1 << 40), r"grid\.rows"),
        (_set("grid", "rows", 21), "as the raster's size gives"),
        (_set("encoder", "dim", 1 << 40), "dim"),
        (_set("overview", "width", 1 << 30), "size of its level"),
    ],
)
def test_forged_manifests(example, tmp_path, change, said):
    path = forge(example[0], tmp_path / "f.zldm", root=change)
    with pytest.raises(ArchiveError, match=said) as caught:
        open_archive(path)
    assert "\n" not in str(caught.value)
    assert verify_archive(path)


def test_unknown_keys_and_minor_versions_are_read(example, tmp_path):
    def change(root: dict) -> None:
        root["attributes"] |= {"version": "1.7", "later": {"a": 1}}
        root["attributes"]["slide"]["stain"] = "H&E"

    path = forge(example[0], tmp_path / "f.zldm", root=change)
    with open_archive(path) as archive:
        assert archive.manifest.version == "1.7"
    assert verify_archive(path) == []


@pytest.mark.parametrize("name", ["embeddings", "mask", "scales", "latents/0", "offsets/0"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape":[', b'"shape":[9000000000,'),
        (b'"chunk_shape":[', b'"chunk_shape":[1000000,'),
        (b'"chunk_shape":[', b'"chunk_shape":[-'),
        (b'"regular"', b'"rectangular"'),
        (b'"bytes"', b'"pickle"'),
        (b'"fill_value":', b'"fill_value":7'),
        (b"{", b"["),
    ],
)
def test_forged_arrays(example, tmp_path, name, old, new):
    def change(members: dict[str, bytes]) -> None:
        meta = f"{name}/zarr.json"
        members[meta] = members[meta].replace(old, new, 1)

    path = forge(example[0], tmp_path / "f.zldm", members=change)
    problems = verify_archive(path)
    assert len(problems) == 1
    assert f"{name}/zarr.json" in problems[0]


def test_a_bomb_in_a_chunk_is_refused(example, tmp_path):
    from imagecodecs import zstd_encode

    def change(members: dict[str, bytes]) -> None:
        members["embeddings/c/0/0/0"] = bytes(zstd_encode(bytes(1 << 28), level=1))

    path = forge(example[0], tmp_path / "f.zldm", members=change)
    with open_archive(path) as archive, pytest.raises(ArchiveError, match="embeddings/c/0/0/0"):
        archive.embeddings(0, 16, 0, 16)


@pytest.mark.parametrize("name", ["embeddings/c/0/0/0", "mask/zarr.json", "latents/0/c/1/0/0/0"])
def test_missing_members_are_named(example, tmp_path, name):
    listed = {}

    def drop(members: dict[str, bytes]) -> None:
        listed.update(members)
        del members[name]

    consistent = forge(example[0], tmp_path / "f.zldm", members=drop)
    assert any(name in problem for problem in verify_archive(consistent))
    path = forge(example[0], tmp_path / "g.zldm", members=drop, relist=False)
    with pytest.raises(DamagedError, match=f"member {name} is listed but missing"):
        open_archive(path)


def test_extra_and_changed_members_are_named(example, tmp_path):
    path = forge(
        example[0], tmp_path / "f.zldm", members=lambda m: m.update(more=b"1"), relist=False
    )
    with pytest.raises(DamagedError, match="member more is not listed"):
        open_archive(path)

    def swap(members: dict[str, bytes]) -> None:
        members["mask/c/0/0"] = members["mask/c/0/0"][:-1] + b"x"

    path = forge(example[0], tmp_path / "g.zldm", members=swap, relist=False)
    with open_archive(path) as archive, pytest.raises(DamagedError, match="member mask/c/0/0"):
        archive.embeddings(0, 1, 0, 1)
    assert any("mask/c/0/0" in problem for problem in verify_archive(path))

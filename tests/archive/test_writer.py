"""Writing: round trips, sizes, determinism, and what a kill or a full disk leaves."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import zoomldm
from archive.making import make_archive, make_header, read_everything
from zoomldm.archive import ArchiveWriter, open_archive, verify_archive, write_archive
from zoomldm.archive.quantise import cosines
from zoomldm.errors import ArchiveError, TargetError

_LOOP = """
import sys
from pathlib import Path
import numpy as np
from archive.making import make_header
from zoomldm.archive import ArchiveWriter
latents = np.random.default_rng(0).standard_normal((64, 4, 32, 32))
for seed in range(int(sys.argv[2])):
    print("go", flush=True)
    rng = np.random.default_rng(seed)
    with ArchiveWriter(sys.argv[1], make_header(9000, 9000, 64), np.zeros(64)) as writer:
        for col in range(30):
            tiles = [(row, col) for row in range(30)]
            writer.add_embeddings(tiles, rng.standard_normal((30, 64)))
            writer.add_latents(0, np.zeros((64, 2)), latents)
"""


def _python(code: str, *args: str, **options) -> subprocess.Popen:
    folders = [Path(zoomldm.__file__).parents[1], Path(__file__).parents[1]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, text=True, **options)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6000),
    st.integers(1, 6000),
    st.integers(1, 40),
    st.integers(0, 500),
    st.sampled_from(["int8", "float16"]),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(tmp_path_factory, width, height, dim, tiles, precision, seed):
    path = tmp_path_factory.getbasetemp() / "round-trip.zldm"
    data = make_archive(path, width, height, tiles, dim, seed=seed, precision=precision)
    assert verify_archive(path) == []
    with open_archive(path) as archive:
        rows, cols = data["positions"].T
        stored = archive.embeddings_of(rows, cols)
        assert cosines(data["embeddings"], stored).min(initial=1) >= 0.999
        mask = np.zeros((archive.rows, archive.cols), bool)
        mask[rows, cols] = True
        np.testing.assert_array_equal(archive.mask, mask)
        np.testing.assert_array_equal(archive.background, data["background"])
        whole = archive.embeddings(-1, archive.rows + 1, -1, archive.cols + 1)
        np.testing.assert_array_equal(whole[1:-1, 1:-1][rows, cols], stored)
        outside = ~np.pad(mask, 1)
        assert (whole[outside] == data["background"]).all()
        for level in archive.latent_levels:
            np.testing.assert_array_equal(archive.offsets(level), data[f"offsets/{level}"])
            order = np.random.default_rng(seed).permutation(len(archive.offsets(level)))
            np.testing.assert_array_equal(
                archive.latents(level, order), data[f"latents/{level}"][order]
            )


def test_any_zarr_reader_reads_the_same(tmp_path, recwarn):
    path = tmp_path / "a.zldm"
    data = make_archive(path)
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        names = {name for name, _ in group.members(max_depth=None)}
        assert {"embeddings", "scales", "mask", "background", "overview", "latents/3"} <= names
        rows, cols = data["positions"].T
        codes, scales = group["embeddings"][:], group["scales"][:]
        with open_archive(path) as archive:
            np.testing.assert_array_equal(
                codes[rows, cols].astype(np.float32) * scales[rows, cols, None],
                archive.embeddings_of(rows, cols),
            )
            np.testing.assert_array_equal(group["mask"][:], archive.mask)
            np.testing.assert_array_equal(group["background"][:], data["background"])
            np.testing.assert_array_equal(group["latents/0"][:], data["latents/0"])
            np.testing.assert_array_equal(group["offsets/3"][:], data["offsets/3"])
            level, picture = archive.overview()
        with Image.open(io.BytesIO(group["overview"][:].tobytes())) as image:
            assert np.abs(np.asarray(image, int) - picture).max() <= 2
        assert group.attrs["format"] == "zldm"
        assert level == 5
    assert not [str(w.message) for w in recwarn if "zarr" in str(w.category).lower()]


def test_the_order_and_batches_of_tiles_do_not_matter(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((100, 16)).astype(np.float32)
    tiles = np.stack([np.arange(100) // 10, np.arange(100) % 10], axis=1)
    write_archive(tmp_path / "a", make_header(2560, 2560, 16), tiles, values, np.zeros(16))
    with ArchiveWriter(tmp_path / "b", make_header(2560, 2560, 16), np.zeros(16)) as writer:
        for part in np.array_split(rng.permutation(100), 7):
            writer.add_embeddings(tiles[part], values[part])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    make_archive(tmp_path / "a")
    time.sleep(0.01)
    make_archive(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with open_archive(tmp_path / "a") as a, open_archive(tmp_path / "b") as b:
        assert a.digest == b.digest


@pytest.mark.parametrize(("tiles", "slide_bytes"), [(185, 4_233_997), (822, 24_282_756)])
def test_is_a_fiftieth_of_a_slide(tmp_path, tiles, slide_bytes):
    path = tmp_path / "a.zldm"
    make_archive(path, 8000, 12000, tiles, 384, overview=False, latents=False)
    assert path.stat().st_size * 50 < slide_bytes


def test_background_costs_nothing(tmp_path):
    for name, side in (("small", 5120), ("large", 40960)):
        with ArchiveWriter(tmp_path / name, make_header(side, side, 384), np.zeros(384)) as writer:
            writer.add_embeddings([(3, 4)], np.random.default_rng(0).standard_normal((1, 384)))
    small, large = ((tmp_path / name).stat().st_size for name in ("small", "large"))
    assert large < small + 200


def test_unreadable_tiles_are_listed_and_background(tmp_path):
    with ArchiveWriter(tmp_path / "a", make_header(2560, 2560, 8), np.full(8, 2.0)) as writer:
        writer.add_embeddings([(0, 0)], np.ones((1, 8)))
        writer.add_unreadable([(5, 1), (2, 3)])
    with open_archive(tmp_path / "a") as archive:
        assert archive.manifest.unreadable == [(2, 3), (5, 1)]
        assert archive.manifest.tissue_tiles == 1
        np.testing.assert_array_equal(archive.embeddings_of([2], [3]), np.full((1, 8), 2.0))


def test_what_int8_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    values = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)
    values[0, 7] = 300
    target = tmp_path / "a.zldm"
    header = make_header(2560, 2560, 4096)
    with pytest.raises(ArchiveError, match=r"tile \(row 2, col 1\).*--precision float16"):
        write_archive(target, header, [(2, 1)], values, np.zeros(4096))
    assert list(tmp_path.iterdir()) == []
    write_archive(target, header, [(2, 1)], values, np.zeros(4096), precision="float16")
    assert verify_archive(target) == []


def test_wrong_use_is_refused(tmp_path):
    header = make_header(2560, 2560, 8)
    with ArchiveWriter(tmp_path / "a", header, np.zeros(8)) as writer:
        writer.add_embeddings([(0, 0)], np.ones((1, 8)))
        with pytest.raises(ValueError, match="added before"):
            writer.add_embeddings([(0, 0)], np.ones((1, 8)))
        with pytest.raises(ValueError, match="outside the grid"):
            writer.add_embeddings([(0, 10)], np.ones((1, 8)))
        with pytest.raises(ValueError, match="values have shape"):
            writer.add_embeddings([(0, 1)], np.ones((1, 9)))
        with pytest.raises(ValueError, match="overview is"):
            writer.set_overview(4, np.zeros((10, 10, 3), np.uint8))
        with pytest.raises(ArchiveError, match="float16 holds"):
            writer.add_latents(0, [(0, 0)], np.full((1, 4, 8, 8), 1e5))
    with pytest.raises(ValueError, match="background has shape"):
        ArchiveWriter(tmp_path / "b", header, np.zeros(9))
    with pytest.raises(ArchiveError, match="limit"):
        ArchiveWriter(tmp_path / "b", make_header(1 << 30, 1 << 30, 8), np.zeros(8))


def test_an_exception_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.zldm"
    make_archive(target)
    before = target.read_bytes()
    with (
        pytest.raises(RuntimeError, match="stop"),
        ArchiveWriter(target, make_header(2560, 2560, 8), np.zeros(8)),
    ):
        raise RuntimeError("stop")
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(TargetError) as caught:
        make_archive(tmp_path / "none" / "a.zldm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, 5_000, 60_000, 500_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit):
    code = (
        "import resource, signal, sys\n"
        "from zoomldm.errors import TargetError\n"
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n" + "".join(f"    {line}\n" for line in _LOOP.strip().splitlines()) + ""
        "except TargetError as error:\n    sys.exit(str(error))\n"
    )
    process = _python(
        code, str(tmp_path / "a.zldm"), "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "can't be written" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_kills_never_leave_a_broken_file(tmp_path):
    target, rng = tmp_path / "a.zldm", random.Random(0)
    for _ in range(8):
        process = _python(_LOOP, str(target), "1000", stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 3)):
                process.stdout.readline()
            time.sleep(rng.random() * 0.5)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert not target.exists() or verify_archive(target) == []
    process = _python(_LOOP, str(target), "1", stdout=subprocess.PIPE)
    process.communicate()
    assert process.returncode == 0
    assert verify_archive(target) == []
    assert len(read_everything(target)) == 5

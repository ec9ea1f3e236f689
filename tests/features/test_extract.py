"""Files of features, read back as other tools read them."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from archive.making import make_header
from cli.conftest import run  # noqa: F401

from zoomldm.archive import Encoder, open_archive
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.features import FeatureOptions, extract_features
from zoomldm.features.reading import read_features
from zoomldm.features.to_archive import archive_from_features
from zoomldm.geometry.orientation import turn_array


def read_trident(path):
    """Features, coordinates and attributes, as readers of TRIDENT's files take them."""
    with h5py.File(path, "r") as file:
        values, coords = file["features"][:], file["coords"][:]
        attributes = dict(file["coords"].attrs)
        assert file["features"].attrs["name"] == path.stem
        assert {"savetodir", "encoder"} <= set(file["features"].attrs)
    if values.ndim == 3:  # some versions write a leading axis
        values = values[0]
    assert len(values) == len(coords) and coords.dtype == np.int64
    needed = {
        "patch_size",
        "patch_size_level0",
        "level0_magnification",
        "target_magnification",
        "overlap",
        "name",
        "savetodir",
        "level0_width",
        "level0_height",
    }
    assert needed <= set(attributes)
    return values, coords, attributes


def test_a_trident_reader_reads_it(make, pipeline, tmp_path):
    path = make(size=(40000, 3000), boxes=((0, 4, 0, 9), (5, 8, 130, 140)))
    report = extract_features(path, tmp_path, pipeline=pipeline)
    values, coords, attributes = read_trident(tmp_path / "a.h5")
    assert values.shape == (128, 32) and values.dtype == np.float32
    assert (report.patches, report.features, report.dim, report.values) == (2, 128, 32, 4096)
    assert report.bytes == {"float32": 16384, "float16": 8192, "int8": 128 * 36}
    assert report.tile_values == (36 + 30) * 32
    assert report.ratio == pytest.approx(66 * 32 / 4096)
    # 0.25 mpp: two pixels of level 0 for one of the raster
    assert attributes["patch_size"] == 32
    assert attributes["patch_size_level0"] == 8192
    assert attributes["level0_magnification"] / attributes["target_magnification"] == 256
    assert attributes["overlap"] == 0
    assert (attributes["level0_width"], attributes["level0_height"]) == (80000, 6000)
    assert coords[64].tolist() == [65536, 0] and coords[9].tolist() == [8192, 8192]


def test_coordinates_are_in_the_slide_s_own_pixels(make, tmp_path):
    path = make(mpp=0.5048)
    extract_features(path, tmp_path, FeatureOptions(source="tiles"))
    values, coords, attributes = read_trident(tmp_path / "a.h5")
    with open_archive(path) as archive:
        rows, cols = np.nonzero(archive.mask)
        np.testing.assert_array_equal(values, archive.embeddings_of(rows, cols))
    np.testing.assert_array_equal(coords[:, 0], np.rint(cols * 256 * 0.5 / 0.5048))
    assert attributes["patch_size"] == 256 and attributes["patch_size_level0"] == 254
    assert attributes["level0_magnification"] == attributes["target_magnification"] == 20


def test_other_formats_and_precisions(make, pipeline, tmp_path):
    path = make()
    exact = {}
    for form, precision in (
        ("h5", "float32"),
        ("pt", "float32"),
        ("npy", "float16"),
    ):
        options = FeatureOptions(format=form, precision=precision)
        extract_features(path, tmp_path, options, pipeline=pipeline)
        exact[form], _ = read_features(tmp_path / f"a.{form}")
    bare = torch.load(tmp_path / "a.pt", weights_only=True)
    assert bare.dtype == torch.float32 and bare.shape == (64, 32)
    assert torch.equal(bare, exact["h5"])
    assert np.load(tmp_path / "a.npy").dtype == np.float16
    assert (exact["npy"] - bare).abs().max() < 2e-3
    extract_features(path, tmp_path, FeatureOptions(precision="int8"), pipeline=pipeline)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].dtype == np.int8 and file["scales"].shape == (64,)
    coarse, where = read_features(tmp_path / "a.h5")
    assert where is not None and where.side == 8192
    assert torch.cosine_similarity(coarse, bare).min() > 0.9999
    assert (coarse - bare).abs().max() <= bare.abs().max() / 254 + 1e-6


def test_mil_leaves_out_what_fills_up(make, pipeline, tmp_path):
    for form in ("h5", "pt", "npy"):
        options = FeatureOptions(format=form, fixed=True)
        report = extract_features(make(), tmp_path, options, pipeline=pipeline)
        assert (report.features, report.values) == (128, 4096)
        values, _ = read_features(tmp_path / f"a.{form}")
        assert values.shape == (64, 32), form
        assert values.any(1).all()
    assert torch.load(tmp_path / "a.pt", weights_only=True).shape == (128, 32)
    assert np.load(tmp_path / "masks" / "a.npy").sum() == 64


def test_the_same_again_is_left_alone(make, pipeline, tmp_path):
    path = make()
    first = extract_features(path, tmp_path, pipeline=pipeline)
    data = (tmp_path / "a.h5").read_bytes()
    again = extract_features(path, tmp_path, pipeline=pipeline)
    assert not first.done_before and again.done_before
    assert (again.values, again.ratio) == (first.values, first.ratio)
    assert not extract_features(
        path, tmp_path, FeatureOptions(level="5x"), pipeline=pipeline
    ).done_before  # other options
    extract_features(path, tmp_path, pipeline=pipeline)
    assert (tmp_path / "a.h5").read_bytes() == data


def test_refusals(make, pipeline, tmp_path):
    other = Encoder(id="uni", digest="e" * 64, dim=32)
    with pytest.raises(ArchiveError, match="made by patch encoder 'uni'"):
        extract_features(make("b", encoder=other), tmp_path, pipeline=pipeline)
    with pytest.raises(ArchiveError, match="holds no tissue tile"):
        extract_features(make("c", boxes=()), tmp_path, pipeline=pipeline)
    with pytest.raises(TargetError, match="no such folder"):
        extract_features(make("d"), tmp_path / "none", pipeline=pipeline)
    for options, message in (
        ({"source": "x"}, "source 'x'; expected summarizer, tiles or unet"),
        ({"precision": "int8", "format": "pt"}, "int8 needs a scale per feature"),
        ({"source": "tiles", "fixed": True}, "tiles are one feature each"),
    ):
        with pytest.raises(ConfigError, match=message):
            FeatureOptions(**options)
    assert not list(tmp_path.glob("*.h5"))


def test_the_command(run, make, tmp_path):  # noqa: F811
    good, bad = make(), make("b", encoder=Encoder(id="uni", digest="e" * 64, dim=32))
    out = tmp_path / "out"
    out.mkdir()
    done = run("features", good, "-o", out, "--pipeline", "tiny", "--fixed", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["paper_ratio"] == 46.875
    assert found["features"][0]["values"] == 4096
    assert found["features"][0]["output"] == str(out / "a.h5")
    done = run("features", good, bad, "-o", out, "--pipeline", "tiny")
    assert done.code == 3 and "1 of 2 archives failed" in done.err
    assert "46.9, stated as 45" in " ".join(done.out.split())
    assert "uni" in run("features", bad, "-o", out, "--pipeline", "tiny").line
    assert run("features", good, bad, "-o", out, "--source", "tiles").code == 0
    assert "no such folder" in run("features", good, "-o", tmp_path / "none").line
    assert "level '3x' does not exist" in run("features", good, "-o", out, "--level", "3x").line


def test_in_python():
    import zoomldm

    assert zoomldm.extract_features is extract_features


@pytest.mark.parametrize("turn", range(8))
def test_features_of_a_turned_archive_lie_on_the_slide(make, tmp_path, turn):
    """Coordinates were those of the turned raster beside the slide's width, and nothing said so."""
    mask = np.zeros((4, 8), bool)
    mask[0:2, 0:2] = mask[3, 5] = True
    turned = turn_array(mask, turn)
    rows, cols = turned.shape
    size = cols * 256, rows * 256
    mpps, native = (0.25, 0.2), (4096, 2560)
    if turn % 2:
        mpps, native = mpps[::-1], native[::-1]
    metadata = {"turn": turn, "mpp_x": mpps[0], "mpp_y": mpps[1], "native_size": native}
    slide = make_header(*size, 32).slide.model_copy(update=metadata)
    boxes = tuple((r, r + 1, c, c + 1) for r, c in np.argwhere(turned))
    path = make(size=size, boxes=boxes, slide=slide)
    extract_features(path, tmp_path, FeatureOptions(source="tiles"))
    _, coords, attributes = read_trident(tmp_path / "a.h5")
    expected = np.argwhere(mask)[:, ::-1] * [512, 640]
    assert sorted(coords.tolist()) == sorted(expected.tolist())
    assert (attributes["level0_width"], attributes["level0_height"]) == (4096, 2560)
    assert (attributes["level0_mpp_x"], attributes["level0_mpp_y"]) == (0.25, 0.2)
    if turn:
        with pytest.raises(ConfigError, match=f"mirrored or turned \\(turn {turn}\\)"):
            archive_from_features(tmp_path / "a.h5", tmp_path / "b.zldm")


@pytest.mark.parametrize("form", ["h5", "pt"])
def test_a_full_disk_is_one_line(make, tmp_path, form):
    """HDF5 on a full disk ended in a segmentation fault."""
    path = make(size=(6000, 6000), boxes=((0, 20, 0, 20),))
    code = (
        "import resource, sys; from zoomldm import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); cli.main()"
    )
    command = ["features", str(path), "-o", str(tmp_path), "--source", "tiles", "--format", form]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "free some space" in done.stderr and done.stderr.count("\n") == 1
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(("a.h5", "a.pt", "a.npy", "."))]

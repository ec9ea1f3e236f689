"""`zoomldm compress` and what bad input gets."""

import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from damage import damage_tile
from synthetic import paint_slide

from zoomldm.files import claim


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_compress_info_verify(run, slide, tmp_path):
    target = tmp_path / "a.zldm"
    done = run("compress", slide, "-o", target, "--pipeline", "tiny", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)["archives"][0]
    assert report["bytes"] == target.stat().st_size and report["unreadable"] == []
    metadata = json.loads(run("info", target, "--json").out)
    wanted = "tissue_tiles, grid, bytes, source_bytes, ratio, mpp, mpp_source, encoder, levels_real"
    assert set(wanted.split(", ")) <= set(metadata)
    assert metadata["tissue_tiles"] == report["tissue_tiles"] > 0
    assert metadata["grid"] == [4, 4] and metadata["mpp"] == pytest.approx([0.5, 0.5])
    assert metadata["source_bytes"] == slide.stat().st_size
    assert metadata["levels_real"] == ["5x", "2.5x", "1.25x", "0.625x", "0.3125x", "0.15625x"]
    assert metadata["base"]["codec"] == "avif" and metadata["base"]["chunks"] == 1
    assert metadata["base"]["bytes"] == report["base_bytes"]
    assert metadata["encoder"]["id"] == "tiny"
    assert run("verify", target).code == 0
    again = run("compress", slide, "-o", tmp_path, "--pipeline", "tiny")
    assert again.code == 0 and "already" in again.out
    assert run("info", target).code == 0
    assert names(tmp_path) == ["a.zldm"]


def not_a_slide(folder):
    path = folder / "bad.svs"
    path.write_text("this is not a slide")
    return path, "not a slide"


def empty(folder):
    path = folder / "bad.svs"
    path.touch()
    return path, "is empty"


def a_folder(folder):
    path = folder / "bad.svs"
    path.mkdir()
    return path, "is a folder; expected a slide"


def missing(folder):
    return folder / "bad.svs", "no such file"


def without_mpp(folder):
    return paint_slide(folder / "bad.svs", 500, 500, resolution=False), "pass --mpp"


def without_tissue(folder):
    white = np.full((600, 600, 3), 244, np.uint8)
    return paint_slide(folder / "bad.svs", 600, 600, picture=white), "no tissue found"


def without_tiles(folder):
    path = paint_slide(folder / "bad.svs", 600, 600, levels=1)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages[0].tags[325]  # TileByteCounts
        counts.overwrite([0] * counts.count)
    return path, "no tissue found"


def all_damaged(folder):
    path = paint_slide(folder / "bad.svs", 600, 600, levels=1, tissue=1.0)
    for index in range(9):
        damage_tile(path, index)
    return path, "can't be read"


@pytest.mark.parametrize(
    "make",
    [
        not_a_slide,
        empty,
        a_folder,
        missing,
        without_mpp,
        without_tissue,
        without_tiles,
        all_damaged,
    ],
)
def test_bad_slides(run, tmp_path, make):
    path, expected = make(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    line = run("compress", path, "-o", out / "a.zldm", "--pipeline", "tiny").line
    assert expected in line and "bad.svs" in line
    assert names(out) == []


def test_slide_without_mpp(run, shared, tmp_path):
    path = shared / "fixtures" / "TCGA-CR-7395-jp2k-no-mpp.svs"
    assert "--mpp" in run("compress", path, "-o", tmp_path, "--pipeline", "tiny").line
    done = run("compress", path, "-o", tmp_path, "--pipeline", "tiny", "--mpp", 0.5, "--json")
    assert done.code == 0
    metadata = json.loads(run("info", json.loads(done.out)["archives"][0]["archive"], "--json").out)
    assert metadata["mpp"] == [0.5, 0.5] and metadata["mpp_source"] == "option"


def test_rejected_dicom(run, shared, tmp_path):
    path = shared / "fixtures" / "incomplete-dicom-wsi.dcm"
    assert path.name in run("compress", path, "-o", tmp_path, "--pipeline", "tiny").line
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mpp", "0"], "not plausible; expected micrometres per pixel from 0.05 to 5"),
        (["--mpp", "-1"], "not plausible"),
        (["--mpp", "50"], "not plausible"),
        (["--base", "3x"], "levels are 20x, 10x"),
        (["--overview", "3x"], "levels are 20x, 10x"),
        (["--base-codec", "gif"], "not one of 'avif', 'jpegxl', 'webp', 'jpeg', 'png'"),
        (["--base-codec", "png", "--base-quality", "9"], "lossless"),
        (["--base", "none", "--base-quality", "9"], "without a base layer; leave"),
        (["--precision", "int4"], "not one of 'compact', 'int8', 'float16'"),
        (["--tissue", "most"], "not one of 'otsu', 'all'"),
        (["--quality", "0"], "expected 1 to 100"),
        (["--encoder", "/nowhere"], "/nowhere"),
        (["--pipeline", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options(run, slide, tmp_path, options, expected):
    line = run("compress", slide, "-o", tmp_path, "--pipeline", "tiny", *options).line
    assert expected in line
    assert names(tmp_path) == []


def test_a_base_layer_finer_than_the_slide(run, slide, tmp_path):
    done = run("compress", slide, "-o", tmp_path, "--pipeline", "tiny", "--base", "5x", "--mpp", 4)
    assert done.code == 2
    assert "but the slide only 4" in done.err  # below the warning that it is enlarged
    assert names(tmp_path) == []


class TestTargets:
    def refused(self, run, slide, out) -> str:
        return run("compress", slide, "-o", out, "--pipeline", "tiny").line

    def test_wrong_ending(self, run, slide, tmp_path):
        assert "expected a name ending in .zldm" in self.refused(run, slide, tmp_path / "a.zip")

    def test_no_folder(self, run, slide, tmp_path):
        assert "create it first" in self.refused(run, slide, tmp_path / "none" / "a.zldm")

    def test_is_a_folder(self, run, slide, tmp_path):
        (tmp_path / "a.zldm").mkdir()
        assert "is a folder" in self.refused(run, slide, tmp_path / "a.zldm")

    def test_unwritable(self, run, slide):
        assert "can't be written" in self.refused(run, slide, "/proc/a.zldm")

    def test_another_process(self, run, slide, tmp_path):
        with claim(tmp_path / "a.zldm"):
            assert "another process" in self.refused(run, slide, tmp_path / "a.zldm")
        assert names(tmp_path) == []

    def test_full(self, slide, tmp_path):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

        command = [sys.executable, "-m", "zoomldm", "compress", slide, "-o", tmp_path / "a.zldm"]
        found = subprocess.run(
            [*command, "--pipeline", "tiny"], capture_output=True, text=True, preexec_fn=limit
        )
        assert found.returncode == 2 and found.stdout == ""
        lines = found.stderr.strip().splitlines()
        assert len(lines) == 1 and "free some space" in lines[0], found.stderr
        assert names(tmp_path) == []


class TestSeveral:
    def test_one_fails(self, run, slide, tmp_path):
        bad, out = tmp_path / "bad.svs", tmp_path / "out"
        bad.write_text("no slide")
        out.mkdir()
        done = run("compress", bad, slide, "-o", out, "--pipeline", "tiny", "--json")
        assert done.code == 3
        report = json.loads(done.out)
        assert [f["slide"] for f in report["failed"]] == [str(bad)]
        assert [a["slide"] for a in report["archives"]] == [str(slide)]
        assert f"1 of 2 slides failed: {bad}" in done.err.splitlines()[-1]
        assert names(out) == ["a.zldm"]

    def test_all_fail(self, run, tmp_path):
        done = run("compress", tmp_path / "x.svs", tmp_path / "y.svs", "-o", tmp_path,
                   "--pipeline", "tiny")  # fmt: skip
        assert done.code == 2 and len(done.err.splitlines()) == 3
        assert names(tmp_path) == []

    def test_need_a_folder(self, run, slide, tmp_path):
        other = shutil.copy(slide, tmp_path / "other.tif")
        done = run("compress", slide, other, "-o", tmp_path / "a.zldm", "--pipeline", "tiny")
        assert "several slides need an existing folder" in done.line

    def test_of_the_same_name(self, run, slide, tmp_path):
        shutil.copy(slide, tmp_path / slide.name)
        done = run("compress", slide, tmp_path / slide.name, "-o", tmp_path, "--pipeline", "tiny")
        assert "same name" in done.line


def test_unreadable_tiles_are_listed(run, tmp_path):
    path = paint_slide(tmp_path / "a.tif", 2560, 2816, tissue=1.0)
    damage_tile(path, 27)
    done = run("compress", path, "-o", tmp_path, "--pipeline", "tiny", "--tissue", "all")
    assert done.code == 0
    assert "unreadable tiles (row, column): [(2, 7)]" in done.err

"""`zoomldm large` and `zoomldm upscale` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OCTAVES = ("--pipeline", "tiny-octaves")


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "t.png")
    return tmp_path / "t.png"


def test_large_of_a_tile(run, tile: Path, tmp_path: Path) -> None:
    command = ("large", tile, "-o", tmp_path / "a.png", "--size", "512x256", *OCTAVES)
    report = json.loads(run(*command, "--json").out)
    assert (report["size"], report["method"], report["origin"]) == (
        *([512, 256], "pyramid"),
        "generated",
    )
    assert Image.open(tmp_path / "a.png").size == (512, 256)
    provenance = json.loads((tmp_path / "a.png.json").read_text())
    assert (
        provenance["pipeline_digest"] == report["pipeline_digest"] and provenance["kind"] == "large"
    )


def test_joint_of_an_archive(run, archive, tmp_path: Path) -> None:
    quick = ("--start", 50, "--inner", 0, "--seams", 0, "--pipeline", "tiny")
    command = ("large", f"{archive}@256,256", "-o", tmp_path / "a.png", "--method", "joint")
    done = run(*command, "--size", "512x512", *quick)
    assert "512 x 512 px by joint" in done.out and "off its view" in done.out


def test_upscale(run, tile: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.png"
    done = run("upscale", tile, "-o", out, "--mpp", 1, *OCTAVES)
    assert "512 x 512 px at 20x, generated" in done.out and Image.open(out).size == (512, 512)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("large", "t.png", "--size", "big"), "expected WIDTHxHEIGHT"),
        (("large", "t.png", "--size", "500x512"), "multiples of 256"),
        (("large", "t.png", "--size", "512x512", "--method", "joint", "--rate", 11), "rate is 11"),
        (("large", "a.zldm@1,1", "--size", "512x512"), "multiples of 256"),
        (("large", "none.png", "--size", "512x512"), "no such image"),
        (("upscale", "t.png", "--mpp", 0.5), "expected about 1 to 64"),
        (("upscale", "none.png", "--mpp", 2), "no such image"),
    ],
)
def test_refused(run, archive, tile, tmp_path, monkeypatch, arguments: tuple, line: str) -> None:
    (tmp_path / "a.zldm").symlink_to(archive)
    monkeypatch.chdir(tmp_path)
    end = (*OCTAVES, "--device", "cpu")
    assert line in run(*arguments, "-o", "out.png", *end).line

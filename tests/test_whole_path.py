"""Compress, train 20 steps and decompress through the command line, with the `tiny` preset."""

import json

import tifffile
from cli.conftest import run  # noqa: F401
from synthetic import paint_slide

from zoomldm.archive import open_archive
from zoomldm.geometry.levels import level_size
from zoomldm.pipeline import load_pipeline


def test_the_whole_path(run, tmp_path):  # noqa: F811
    slides, data, out = tmp_path / "slides", tmp_path / "data", tmp_path / "run"
    slides.mkdir()
    data.mkdir()
    paths = [
        paint_slide(slides / f"{i}.tif", 1300, 1100, mpp=0.51, tissue=0.7, seed=i) for i in (1, 2)
    ]
    done = run("compress", *paths, "-o", data, "--for-training", "--pipeline", "tiny", "--json")
    assert done.code == 0, done.err
    options = ["--data", data, "-o", out, "--preset", "tiny", "--steps", 20, "--threads", 1]
    done = run("train", *options, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["steps"] == 20
    trained = load_pipeline(report["pipeline"])
    assert trained.digest("unet") != load_pipeline("tiny").digest("unet")
    averaged = type(trained.unet).from_pretrained(str(out / "networks" / "unet")).state_dict()
    assert all((v == averaged[k]).all() for k, v in trained.unet.state_dict().items())
    for name in ("a", "b"):
        done = run("decompress", data / "1.zldm", "-o", tmp_path / f"{name}.tif", "--level", "10x",
                   "--steps", 4, "--pipeline", report["pipeline"], "--json")  # fmt: skip
        assert done.code == 0, done.err
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        with open_archive(data / "1.zldm") as archive:
            wide, high = level_size(*archive.size, 1)
        assert tiff.pages[0].shape[:2] == (high, wide)
        pixels = tiff.pages[0].asarray()
        assert pixels.std((0, 1)).min() > 1  # a picture, not one colour
    provenance = json.loads((tmp_path / "a.tif.json").read_text())
    origins = {part["level"]: part["origin"] for part in provenance["levels"]}
    assert origins["10x"] == "generated"
    assert all(origin == "real" for level, origin in origins.items() if level != "10x")

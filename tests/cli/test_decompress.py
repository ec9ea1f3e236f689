"""`zoomldm decompress`: its region option, and what it tells of each level."""

from pathlib import Path

import pytest

from cli.conftest import Run
from zoomldm.cli.decompress import parse_region
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import RegionError
from zoomldm.geometry.levels import NAMES
from zoomldm.pipeline import build_pipeline


def test_a_region_is_four_whole_numbers() -> None:
    assert parse_region("1, 2,30,40") == (1, 2, 30, 40)
    assert parse_region("-1,0,5,5") == (-1, 0, 5, 5)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RegionError, match="four whole numbers"):
        parse_region(text)


@pytest.fixture(scope="module")
def octaves(tmp_path_factory, slide) -> dict[str, Path]:
    """Archives of a pipeline that draws pyramids, with and without a base layer."""
    folder, pipeline = tmp_path_factory.mktemp("octaves"), build_pipeline("tiny-octaves")
    out = {}
    for base in ("5x", "none"):
        out[base] = path = folder / f"{base}.zldm"
        options = CompressOptions(base=base)
        compress(slide, path, options, pipeline=pipeline, name="tiny-octaves")
    return out


@pytest.mark.parametrize("base", ["5x", "none"])
@pytest.mark.parametrize("level", NAMES)
def test_each_level_of_a_pyramid_is_written_and_told(
    run: Run, octaves: dict[str, Path], tmp_path: Path, base: str, level: str
) -> None:
    options = ["--pipeline", "tiny-octaves", "--level", level, "--steps", 1]
    target = tmp_path / "a.png"
    done = run("decompress", octaves[base], "-o", target, "--region", "0,0,512,512", *options)
    assert (done.code, done.err) == (0, "") and target.exists()
    assert level in done.out
    real = base == "5x" and NAMES.index(level) >= 2
    assert ("real" in done.out) == real
    assert (", 0 patches generated" in " ".join(done.out.split())) == real


@pytest.mark.parametrize("base", ["5x", "none"])
def test_what_is_written_by_default_is_told(
    run: Run, octaves: dict[str, Path], tmp_path: Path, base: str
) -> None:
    quick = ["--pipeline", "tiny-octaves", "--region", "0,0,512,512", "--steps", 1]
    done = run("decompress", octaves[base], "-o", tmp_path / "a.tif", *quick)
    assert (done.code, done.err) == (0, "") and (tmp_path / "a.tif").exists()
    done = run("decompress", octaves[base], "-o", tmp_path / "a.png", "--level", "all", *quick)
    assert (done.code, done.err) == (0, "") and all(name in done.out for name in NAMES)

"""Files that decompression writes, and what it refuses."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.errors import ArchiveError, ConfigError, PipelineError, RegionError, TargetError
from zoomldm.files import claim
from zoomldm.geometry.levels import NAMES
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import DecompressOptions, RenderOptions
from zoomldm.rendering import decompress as run
from zoomldm.rendering.opening import open_renderer

Make = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 2, "guidance": 1.0}


def decompress(
    archive: Path,
    output: Path,
    level: int | str | None = None,
    region: Any = None,
    *,
    pipeline: ZoomLDMPipeline | str,
    progress: Any = None,
    **more: Any,
) -> dict[str, Any]:
    """Decompress, options by name."""
    options = DecompressOptions(level=level, region=region, **more)
    return run(archive, output, options, pipeline=pipeline, progress=progress).as_dict()


@pytest.fixture
def path(make: Make) -> Path:
    return make(1001, 701, overview=1)


def test_a_tiff_opens_in_openslide_with_all_levels(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    progress: list[tuple[str, int, int]] = []
    report = decompress(
        path, out, pipeline=pipeline, progress=lambda *step: progress.append(step), **QUICK
    )
    assert progress[0] == ("tiles", 0, 12)
    assert progress[-1] == ("tiles", 12, 12)
    with openslide.OpenSlide(out) as slide:
        assert slide.level_dimensions == ((1001, 701), (501, 351), (251, 176))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        # Stored pixels come back, but for a second JPEG.
        with open_archive(path) as archive:
            stored = (archive.overview() or (0, np.empty(0)))[1]
        page = np.asarray(slide.read_region((0, 0), 1, (501, 351)).convert("RGB"))
        assert np.abs(page.astype(int) - stored).mean() < 6
    with tifffile.TiffFile(out) as tiff:
        note = json.loads(tiff.pages[0].tags["ImageDescription"].value)  # type: ignore[union-attr]
        assert len(tiff.pages) == 3
        assert tiff.is_bigtiff
    written = json.loads((tmp_path / "out.tif.json").read_text())
    assert written == json.loads(json.dumps(report))
    for found in (note, written):
        assert found["levels_real"] == list(NAMES[1:])
        assert found["levels_generated"] == ["20x"]
        assert found["pipeline_digest"] == pipeline.digest()
        assert (found["seed"], found["steps"], found["start"]) == (0, 2, 500)
    assert [part["origin"] for part in written["levels"]] == ["generated", "real", "real"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out.tif.json", "slide.zldm"]


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    files = []
    for name, seed in (("a.tif", 0), ("b.tif", 0), ("c.tif", 1)):
        decompress(
            path, tmp_path / name, region=(0, 0, 300, 300), seed=seed, pipeline=pipeline, **QUICK
        )
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_less_memory_changes_no_byte(path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path) -> None:
    for name, memory in (("a.tif", 64 << 20), ("b.tif", 0)):
        options = DecompressOptions(steps=2, region=(0, 0, 300, 300), memory=memory)
        run(path, tmp_path / name, options, pipeline=pipeline)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with pytest.raises(ConfigError, match="memory is -1"):
        DecompressOptions(memory=-1)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_png_is_the_region_at_its_level(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path, level: int
) -> None:
    path, out = make(1001, 701, overview=2), tmp_path / "out.png"
    decompress(path, out, NAMES[level], (333, 101, 402, 207), pipeline=pipeline, **QUICK)
    with (
        open_archive(path) as archive,
        open_renderer(archive, pipeline, RenderOptions(**QUICK)) as renderer,
    ):
        whole = renderer.read(level, 0, 0, *renderer.size(level))
    scale = 2**level
    rows = slice(101 // scale, -(-308 // scale))
    cols = slice(333 // scale, -(-735 // scale))
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), whole[rows, cols])
        assert json.loads(picture.info["zoomldm"])["levels"][0]["level"] == NAMES[level]  # type: ignore[union-attr]


def test_a_tiff_of_a_region_from_a_level_on(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    path = make(2000, 1500, overview=2)
    decompress(path, out, "10x", (101, 203, 1503, 801), pipeline=pipeline, **QUICK)
    with openslide.OpenSlide(out) as slide:
        assert slide.level_dimensions == ((752, 401), (376, 201), (188, 101))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(1.0)


def test_a_ladder_shows_all_levels(path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    report = decompress(path, out, "all", pipeline=pipeline, **QUICK)
    assert [part["level"] for part in report["levels"]] == list(NAMES)
    assert [part["origin"] for part in report["levels"]] == ["generated"] + ["real"] * 7
    with Image.open(out) as picture:
        assert picture.width > 4 * 256
        assert picture.height > 2 * 256
    here = decompress(path, out, "all", (600, 600, 50, 50), pipeline=pipeline, **QUICK)
    assert (here["levels"][0]["x"], here["levels"][0]["y"]) == (512, 512)


def test_a_folder_takes_the_archive_s_name(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    report = decompress(path, folder, "0.15625x", pipeline=pipeline, **QUICK)
    assert (folder / "slide.tif").is_file()
    assert report["output"] == "slide.tif"


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"level": "40x"}, RegionError, "level '40x' does not exist; levels are 20x"),
    ({"level": 8}, RegionError, "level 8 does not exist"),
    ({"region": (900, 0, 102, 10)}, RegionError, "which is 1001 x 701"),
    ({"region": (0, 0, 0, 10)}, RegionError, "not inside the slide"),
    ({"output": "out.jpg"}, ConfigError, "ending '.jpg' is not known; expected .tif"),
    ({"output": "out.png"}, ConfigError, "give --level 20x"),
    ({"output": "none/out.tif"}, TargetError, "does not exist"),
    ({"seed": -1}, ConfigError, "seed is -1"),
    ({"steps": 1}, ConfigError, "at least 2"),
    ({"steps": 1001}, ConfigError, "expected 1 to 1000"),
    ({"pipeline": "nowhere"}, PipelineError, "nowhere"),
    ({"workers": 0}, ConfigError, "workers is 0"),
    ({"output": "out.zarr", "tiff_flavour": "ome"}, ConfigError, "a TIFF flavour is for .tif"),
    ({"output": "out.png", "level": "5x", "geojson": True}, ConfigError, "no GeoJSON"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG)
def test_what_is_refused_leaves_nothing(
    path: Path,
    pipeline: ZoomLDMPipeline,
    tmp_path: Path,
    change: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    settings: dict[str, Any] = {"output": "out.tif", "pipeline": pipeline, **QUICK, **change}
    output = tmp_path / settings.pop("output")
    with pytest.raises(kind, match=message) as caught:
        decompress(path, output, **settings)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["slide.zldm"]


def test_a_png_over_64_megapixels_is_refused(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    mask = np.zeros((40, 40), bool)
    mask[3, 3] = True
    path = make(10_000, 10_000, overview=None, mask=mask)
    with pytest.raises(RegionError, match="10000 x 10000 px, 100 megapixels, over the 64"):
        decompress(path, tmp_path / "out.png", "20x", pipeline=pipeline)


def test_an_archive_of_another_encoder_is_refused(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match="was made by patch encoder"):
        decompress(make(digest="1" * 64), tmp_path / "out.tif", pipeline=pipeline)
    assert [p.name for p in tmp_path.iterdir()] == ["slide.zldm"]


def test_not_an_archive(pipeline: ZoomLDMPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.zldm").write_bytes(b"nothing of the kind")
    for name in ("a.zldm", "absent.zldm"):
        with pytest.raises(ArchiveError):
            decompress(tmp_path / name, tmp_path / "out.tif", pipeline=pipeline)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zldm"]


def test_a_target_that_another_process_writes(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    with claim(tmp_path / "out.tif"), pytest.raises(TargetError, match="another process"):
        decompress(path, tmp_path / "out.tif", pipeline=pipeline)


def test_a_full_disk_keeps_what_was_there(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.tif"
    out.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("zoomldm.writers.tiff.keep_tiles", full)
        with pytest.raises(TargetError, match=r"No space left.*goes on from out\.tif\.part"):
            decompress(path, out, pipeline=pipeline, **QUICK)
    assert out.read_bytes() == b"before"
    names = ["out.tif", "out.tif.part", "slide.zldm"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    decompress(path, out, pipeline=pipeline, **QUICK)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out.tif.json", "slide.zldm"]

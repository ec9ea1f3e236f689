"""Large images by the pyramid and by joint sampling, on the tiny pipelines."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import filled_pipeline

from zoomldm.diffusion.joint import JointSettings
from zoomldm.errors import ConfigError, PipelineError, RegionError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.joint import guide_side
from zoomldm.sampling.large import LargeOptions, LargeReport, large
from zoomldm.sampling.large_input import read_input
from zoomldm.sampling.pieces import Pieces

FEW = JointSettings(start=100, inner=1, seams=50)


@pytest.fixture(scope="module")
def octaves() -> ZoomLDMPipeline:
    return filled_pipeline("tiny-octaves")


@pytest.fixture
def grid(tmp_path: Path, octaves: ZoomLDMPipeline) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "grid.npy", rng.standard_normal((2, 2, octaves.embedding_dim)))
    return tmp_path / "grid.npy"


def pixels_of(report: LargeReport) -> np.ndarray:
    return np.array(Image.open(report.output).convert("RGB")).astype(int)


def test_the_pyramid_draws_a_grid(grid: Path, tmp_path: Path, octaves) -> None:
    options = LargeOptions((512, 512))
    one = large(grid, tmp_path / "a.png", options, pipeline=octaves)
    two = large(grid, tmp_path / "b.png", options, pipeline=octaves)
    assert (one.tiles, one.origin, one.guide) == (4, "generated", None)
    assert pixels_of(one).shape == (512, 512, 3) and (pixels_of(one) == pixels_of(two)).all()
    other = LargeOptions((512, 512), seed=1)
    assert (
        pixels_of(large(grid, tmp_path / "c.png", other, pipeline=octaves)) != pixels_of(one)
    ).any()
    assert one.evaluations_per_tile < 840 / 10 and (tmp_path / "a.png.json").is_file()


@pytest.mark.parametrize("preset", ["tiny-octaves", "tiny"])
def test_joint_sampling_of_own_pipelines(preset: str, tmp_path: Path) -> None:
    pipeline = filled_pipeline(preset)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "g.npy", rng.standard_normal((2, 4, pipeline.embedding_dim)))
    options = LargeOptions((1024, 512), "joint", settings=FEW, batch=3)
    report = large(tmp_path / "g.npy", tmp_path / "a.tif", options, pipeline=pipeline)
    assert pixels_of(report).shape == (512, 1024, 3) and report.guide == 2
    # 2 steps of 8 tiles, guided (twice) 1 + 2 times, and of 2 guides; 5 x 13 windows, guided, once
    assert report.evaluations == 2 * 8 * 2 * 3 + 2 * 2 * 2 + 2 * 5 * 13
    assert report.agreement is not None and report.settings["exact_time"]


def test_blocks_depend_on_their_place_alone(tmp_path: Path, octaves) -> None:
    """Without seam removal a block is the same in a smaller image."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 4, octaves.embedding_dim))
    np.save(tmp_path / "wide.npy", values)
    np.save(tmp_path / "left.npy", values[:, :2])
    settings = JointSettings(start=50, inner=1, seams=0)
    images = []
    for name, width in (("wide", 1024), ("left", 512)):
        options = LargeOptions((width, 512), "joint", settings=settings)
        out = tmp_path / f"{name}.png"
        images.append(pixels_of(large(tmp_path / f"{name}.npy", out, options, pipeline=octaves)))
    wide, left = images
    assert np.abs(wide[:, :256] - left[:, :256]).max() <= 1  # clear of the blend with the next


def test_the_released_pipeline(tmp_path: Path) -> None:
    """Its denoiser predicts noise and is told the time that it is told in the released code."""
    pipeline = filled_pipeline("tiny")
    kinds = {**pipeline.scheduler.config, "prediction_type": "epsilon"}
    pipeline.scheduler = type(pipeline.scheduler).from_config(kinds)
    pipeline.register_to_config(source={"system": "released"}, format=None)
    np.save(
        tmp_path / "g.npy", np.random.default_rng(0).normal(size=(2, 2, pipeline.embedding_dim))
    )
    options = LargeOptions((512, 512), "joint", settings=FEW)
    report = large(tmp_path / "g.npy", tmp_path / "a.png", options, pipeline=pipeline)
    assert report.settings["exact_time"] is False
    with pytest.raises(PipelineError, match="choose method joint"):
        large(tmp_path / "g.npy", tmp_path / "a.png", LargeOptions((512, 512)), pipeline=pipeline)


def test_a_tile_all_over(tmp_path: Path, octaves) -> None:
    Image.fromarray(np.full((256, 256, 3), 200, np.uint8)).save(tmp_path / "t.png")
    given = read_input(str(tmp_path / "t.png"), (512, 256), octaves)
    assert given.grid.shape == (1, 2, octaves.embedding_dim)
    np.testing.assert_array_equal(given.grid[0, 0], given.grid[0, 1])


@pytest.mark.parametrize(
    ("source", "size", "out", "kind", "line"),
    [
        ("grid.npy", (500, 512), "a.png", ConfigError, "multiples of 256 px, such as 512x512"),
        ("grid.npy", (512_000, 256_256), "a.tif", ConfigError, "1,000,000 at most"),
        ("grid.npy", (8192, 8192), "a.png", RegionError, "67 megapixels"),
        ("grid.npy", (512, 512), "a.bmp", ConfigError, "a.bmp"),
        ("grid.npy", (512, 256), "a.png", ConfigError, "expected finite numbers of shape"),
        ("none.npy", (512, 512), "a.png", ConfigError, "can't be read as a .npy"),
        ("none.png", (512, 512), "a.png", ConfigError, "no such image"),
    ],
)
def test_refused(
    grid: Path, monkeypatch, tmp_path: Path, octaves, source, size, out, kind, line
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=line):
        large(source, out, LargeOptions(size), pipeline=octaves)
    assert not Path(out).exists()


def test_guides_that_fit() -> None:
    assert guide_side(16, 48, None, 8) == 16 and guide_side(4, 6, None, 8) == 2
    assert guide_side(16, 16, None, 3) == 4  # the pipeline knows no more levels
    assert guide_side(16, 16, 2, 8) == 2
    with pytest.raises(ConfigError, match="multiples of 512 px"):
        guide_side(3, 4, None, 8)
    with pytest.raises(ConfigError, match="guide 8 does not fit"):
        guide_side(4, 4, 8, 8)


@pytest.mark.parametrize("method", ["joint", "pyramid"])
def test_a_run_that_was_broken_off_goes_on(
    method: str, grid: Path, tmp_path: Path, octaves: ZoomLDMPipeline, monkeypatch
) -> None:
    """Broken off within seam removal, or between two windows."""
    few = JointSettings(start=50, inner=0, seams=100)
    options = LargeOptions((512, 512), method, settings=few)  # type: ignore[arg-type]
    whole = large(grid, tmp_path / "whole.png", options, pipeline=octaves)
    put, keys = Pieces.put, []

    def broken(self: Pieces, key: str, data: bytes) -> None:
        put(self, key, data)
        keys.append(key)
        if len(keys) == 2:
            raise KeyboardInterrupt

    target = tmp_path / "a.png"
    monkeypatch.setattr(Pieces, "put", broken)
    with pytest.raises(KeyboardInterrupt):
        large(grid, target, options, pipeline=octaves)
    assert (tmp_path / "a.png.drawn.part").is_dir() and not target.exists()
    monkeypatch.setattr(Pieces, "put", put)
    again = large(grid, target, options, pipeline=octaves)
    assert (pixels_of(again) == pixels_of(whole)).all()
    if method == "joint":
        assert keys == ["block/0/0", "seams/1"]
        assert (again.evaluations, again.agreement) == (whole.evaluations, whole.agreement)
    else:
        assert again.evaluations < whole.evaluations
    assert not (tmp_path / "a.png.drawn.part").exists()

"""Copies are found where samples are copies, and only there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import paint_slide
from training.archives import make_archive

from zoomldm import CompressOptions, compress
from zoomldm.archive import open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.base_patches import BasePatches
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.evaluation.copies import copies_table, measure_copies
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pixels import to_pixels
from zoomldm.sampling.sampler import Sampler


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Four channels as the quarters of a grey picture: an autoencoder that loses nothing."""
    quarters = (latents / 5).clamp(-1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    rows = quarters.unflatten(1, (2, 2)).permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    return rows[:, None].expand(-1, 3, -1, -1)


def encode(pictures: torch.Tensor) -> torch.Tensor:
    cells = pictures[:, 0].unflatten(2, (2, 32, 4)).unflatten(1, (2, 32, 4)).mean((3, 6))
    return cells.permute(0, 1, 3, 2, 4).flatten(1, 2) * 5


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    pipeline = build_pipeline("tiny")
    pipeline.decode_latents, pipeline.encode_images = decode, encode
    return pipeline


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, pipeline: ZoomLDMPipeline) -> list[Path]:
    folder = tmp_path_factory.mktemp("copies")
    return [
        make_archive(folder / f"{seed}.zldm", pipeline, 14, 12, seed, levels=(0, 2))
        for seed in range(3)
    ]


def pictures_of(pipeline: ZoomLDMPipeline, archives: list[Path], which: str, n: int):
    """A stand-in for samples: decoded training or withheld patches."""
    store = ArchivePatches([open_archive(a) for a in archives])

    def sample(self, level: int, count: int) -> np.ndarray:
        chosen = getattr(store, which)[level][:n]
        latents = torch.from_numpy(store.latents(level, chosen))
        return to_pixels(pipeline.decode_latents(latents))

    return sample


@pytest.mark.parametrize(("which", "copies"), [("patches", 6), ("withheld", 0)])
def test_copies(
    pipeline: ZoomLDMPipeline, archives: list[Path], monkeypatch, which: str, copies: int
) -> None:
    monkeypatch.setattr(Sampler, "sample", pictures_of(pipeline, archives[:2], which, 6))
    found, picture = measure_copies(pipeline, archives[:2], archives[2:], levels=[0])
    (row,) = found["levels"]
    assert abs(row["copies"] - copies) <= 1  # of withheld ones, one in a hundred by definition
    assert row["withheld"] >= 8 and row["training"] > 100
    assert row["median_held_out"] > 0
    assert picture is not None and picture.shape == (512, 256 * len(found["pairs"]), 3)
    if which == "patches":
        assert row["nearest"] < row["limit"]
        for pair in found["pairs"]:
            store = ArchivePatches([open_archive(a) for a in archives[:2]])
            row, col = store.patches[0][pair["index"]][2:].tolist()
            assert (pair["row"], pair["col"]) == (row, col)  # the very patch that it is
    assert copies_table(found).splitlines()[2].startswith("| 20x | ")


def test_levels_with_too_few_withheld_patches(
    pipeline: ZoomLDMPipeline, tmp_path: Path, monkeypatch
) -> None:
    small = make_archive(tmp_path / "small.zldm", pipeline, levels=(0,))
    monkeypatch.setattr(Sampler, "sample", pictures_of(pipeline, [small], "patches", 2))
    found, picture = measure_copies(pipeline, [small])
    (row,) = found["levels"]
    assert row["copies"] is None and row["withheld"] < 8 and picture is None
    assert copies_table(found).endswith("| - | - |")


def test_refused(pipeline: ZoomLDMPipeline, archives: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training archives"):
        measure_copies(pipeline, [])
    with pytest.raises(ArchiveError, match="patch encoder"):
        measure_copies(build_pipeline("tiny", seed=1), archives)
    other = build_pipeline("tiny")
    other.vae = build_pipeline("tiny", seed=1).vae
    with pytest.raises(ArchiveError, match=r"its autoencoder is tiny .* the pipeline's is"):
        measure_copies(other, archives)
    for share in (-0.1, 0, 2):
        with pytest.raises(ConfigError, match="share is"):
            measure_copies(pipeline, archives, share=share)
    bare = make_archive(tmp_path / "bare.zldm", pipeline, levels=())
    with pytest.raises(ArchiveError, match="holds no latents"):
        measure_copies(pipeline, [bare])


@pytest.mark.parametrize(("which", "copies"), [("patches", 6), ("withheld", 0)])
def test_copies_of_a_low_pass_pipeline(
    tmp_path: Path, monkeypatch, which: str, copies: int
) -> None:
    pipeline, path = build_pipeline("tiny-octaves"), tmp_path / "slide.zldm"
    cells = np.random.default_rng(0).integers(90, 220, (24, 32, 3), np.uint8)  # none like another
    cells[..., 1] //= 2
    picture = cells.repeat(128, 0).repeat(128, 1)
    slide = paint_slide(tmp_path / "slide.tif", 4096, 3072, picture=picture)
    compress(slide, path, CompressOptions(base_quality=60), pipeline=pipeline)
    store = BasePatches(pipeline, [open_archive(path)])
    chosen = getattr(store, which)[0]
    chosen = chosen[np.linspace(0, len(chosen) - 1, 6).astype(int)]
    latents = torch.from_numpy(store.latents(0, chosen))

    def sample(self, level: int, count: int) -> np.ndarray:
        return to_pixels(pipeline.decode_latents(latents))

    monkeypatch.setattr(Sampler, "sample", sample)
    found, _ = measure_copies(pipeline, [path], levels=[0])
    (row,) = found["levels"]
    assert abs(row["copies"] - copies) <= 1 and row["withheld"] >= 8
    if which == "patches":
        places = {(p["row"], p["col"]) for p in found["pairs"]}
        assert places == {(row, col) for row, col in chosen[:, 2:].tolist()}


def test_low_pass_latents_are_the_base_layer(tmp_path: Path) -> None:
    pipeline, path = build_pipeline("tiny-octaves"), tmp_path / "slide.zldm"
    slide = paint_slide(tmp_path / "slide.tif", 1024, 1024, tissue=1.0)
    compress(slide, path, CompressOptions(for_training=True), pipeline=pipeline)
    with open_archive(path) as archive:
        store = BasePatches(pipeline, [archive], 0)
        assert archive.base is not None
        for level in (0, 3):
            _, _, row, col = store.patches[level][0].tolist()
            decoded = pipeline.decode_latents(
                torch.from_numpy(store.latents(level, store.patches[level][:1]))
            )
            step = 64 >> level
            square = np.full((64, 64, 3), 255, np.uint8)
            top, left = max(0, -row * step), max(0, -col * step)
            rest = archive.base.read_level(
                level + 2, max(0, col * step), max(0, row * step), 64 - left, 64 - top
            )
            square[top:, left:] = rest
            low = to_pixels(torch.nn.functional.avg_pool2d(decoded, 4))[0].mean(2)
            assert np.abs(low - square.mean(2)).mean() < 3
        bare = tmp_path / "bare.zldm"
        compress(slide, bare, CompressOptions(base="none"), pipeline=pipeline)
        with pytest.raises(ArchiveError, match=r"holds no base layer; .* --base 5x"):
            measure_copies(pipeline, [bare])

"""Distances of samples to real patches: from slides to a table on an untrained pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import paint_slide
from tiny import filled_pipeline

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.data.contexts import ContextStore
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.evaluation.samples import _read, measure_samples, samples_table
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.slides import open_slide

QUICK = SampleOptions(steps=1, context_steps=1)


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    return filled_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline: ZoomLDMPipeline) -> Path:
    """Three slides with their archives, and a judge."""
    folder = tmp_path_factory.mktemp("samples")
    for seed, name in enumerate(("held", "a", "b")):
        paint_slide(folder / f"{name}.tif", 1800, 1300, mpp=0.5, seed=seed, tissue=1)
        options = CompressOptions(base="none")
        compress(folder / f"{name}.tif", folder, options, pipeline=pipeline, name="tiny")
    torch.manual_seed(0)
    judge = TileCNN(dim=16, layout=0, widths=(8, 8, 8, 8), map_channels=2, grey=True)
    judge.save_pretrained(folder / "judge")
    return folder


def measured(pipeline: ZoomLDMPipeline, folder: Path, **changes):
    slides = {n: folder / f"{n}.tif" for n in ("held", "a", "b")}
    arguments = {
        "slides": [slides["held"]],
        "others": {"A": [slides["a"]], "B": [slides["b"]]},
        "archives": sorted(folder.glob("*.zldm")),
        "n": 12,
        "levels": [0, 1, 7],
        "options": QUICK,
        "judge": folder / "judge",
    }
    return measure_samples(pipeline, **(arguments | changes))


def test_figures(pipeline: ZoomLDMPipeline, folder: Path) -> None:
    figures, shown = measured(pipeline, folder)
    assert [row["level"] for row in figures["levels"]] == ["20x", "10x", "0.15625x"]
    kinds = {"real", "reference", "drawn", "like", "other/A", "other/B"}
    for level, row in zip((0, 1, 7), figures["levels"], strict=True):
        assert set(shown[level]) == kinds
        assert all(p.shape == (row["n"], 256, 256, 3) for p in shown[level].values())
        assert set(row["kernel"]) == set(row["frechet"]) == kinds - {"real"}
        a, b = row["kernel"]["reference"]["value"], row["kernel"]["drawn"]["value"]
        c = row["kernel"]["other/A"]["value"]
        assert row["drawn_minus_reference"]["value"] == pytest.approx(b - a)
        assert row["difference"]["other/A"]["value"] == pytest.approx(2 * b - a - c)
    # Real patches of a painted slide look like those of another; noise does not.
    first = figures["levels"][0]
    assert first["kernel"]["other/A"]["value"] < first["kernel"]["drawn"]["value"]
    table = samples_table(json.loads(json.dumps(figures)))
    assert table.count("(c) real patches of B") == 3
    assert table.count("| 20x | A |") == 1
    again, _ = measured(pipeline, folder, levels=[1])
    assert again["levels"][0] == figures["levels"][1]


def test_real_patches_are_cuts_of_the_slide(pipeline: ZoomLDMPipeline, folder: Path) -> None:
    _, shown = measured(pipeline, folder, levels=[0])
    with open_slide(folder / "held.tif") as slide:
        tiles = {
            slide.read(0, x, y, 256, 256).tobytes()
            for y in range(0, 1300, 256)
            for x in range(0, 1800, 256)
        }
    real = {p.tobytes() for p in shown[0]["real"]}
    assert len(real) == 12 and real <= tiles
    assert not np.array_equal(shown[0]["drawn"], shown[0]["like"])


def test_refused(pipeline: ZoomLDMPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no archive of a\.tif; give it with --archive"):
        measured(pipeline, folder, archives=[folder / "held.zldm"])
    with pytest.raises(ConfigError, match="are both needed"):
        measured(pipeline, folder, others={})
    with pytest.raises(ConfigError, match="n is 7; distances need at least 8"):
        measured(pipeline, folder, n=7)
    with pytest.raises(ArchiveError, match="was made by patch encoder"):
        measured(build_pipeline("tiny", seed=1), folder)
    with pytest.raises(ArchiveError, match=r"is of a raster of \(1800, 1300\) px"):
        other = paint_slide(tmp_path / "a.tif", 900, 900, mpp=0.5)
        measured(pipeline, folder, others={"A": [other]})


def test_turned_archives_are_passed_over(
    pipeline: ZoomLDMPipeline, folder: Path, tmp_path: Path
) -> None:
    options = CompressOptions(base="none", turn=1)
    compress(folder / "held.tif", tmp_path, options, pipeline=pipeline, name="tiny")
    turned = tmp_path / "held.turn1.zldm"
    with pytest.raises(ConfigError, match=r"no archive of held\.tif"):
        measured(pipeline, folder, archives=[turned, folder / "a.zldm", folder / "b.zldm"])


def test_a_slide_whose_scale_was_told(pipeline: ZoomLDMPipeline, tmp_path: Path) -> None:
    """It is read at the scale that its archive was made at."""
    path = paint_slide(tmp_path / "a.tif", 1500, 1300, mpp=0.25, tissue=1)
    options = CompressOptions(base="none", mpp=0.5)
    compress(path, tmp_path, options, pipeline=pipeline, name="tiny")
    with open_archive(tmp_path / "a.zldm") as archive, open_slide(path, 0.5) as slide:
        store = ContextStore(pipeline, [archive], 0.0, most=3, hold="patches")
        patches = store.levels[0].patches
        row, col = patches[0, 1:].tolist()
        expected = slide.read(0, col * 256, row * 256, 256, 256)
        assert np.array_equal(_read(store, [path], 0, patches)[0], expected)

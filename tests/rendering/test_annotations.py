"""Outlines of masks, and GeoJSON of an archive."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from zoomldm.archive import open_archive
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import DecompressOptions, decompress
from zoomldm.rendering.annotations import Frame, outlines, tissue_features


def painted(rings: list[list[tuple[int, int]]], shape: tuple[int, int]) -> np.ndarray:
    """Cells whose centre is inside an odd number of rings."""
    out = np.zeros(shape, int)
    for row in range(shape[0]):
        for col in range(shape[1]):
            for ring in rings:
                for (x0, y0), (x1, y1) in pairwise(ring):
                    if x0 == x1 and x0 > col + 0.5 and min(y0, y1) < row + 0.5 < max(y0, y1):
                        out[row, col] += 1
    return out % 2 == 1


@pytest.mark.parametrize("seed", range(12))
def test_outlines_hold_just_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) < rng.uniform(0.2, 0.9)
    regions = outlines(mask)
    whole = sum(painted(rings, mask.shape).astype(int) for rings in regions)
    np.testing.assert_array_equal(whole, mask.astype(int))
    for rings in regions:
        assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in rings)


def test_a_ring_has_its_hole() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    assert outlines(mask) == [
        [
            [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0)],
            [(1, 1), (1, 2), (2, 2), (2, 1), (1, 1)],
        ]
    ]
    assert outlines(np.zeros((3, 3), bool)) == []


def test_features_are_in_pixels_of_the_image() -> None:
    mask = np.ones((4, 4), bool)
    (feature,) = tissue_features(mask, Frame(1, (100, 30, 200, 100)))  # 10x: tiles are 128 px
    ring = feature["geometry"]["coordinates"][0]
    assert ring == [[0, 0], [200, 0], [200, 100], [0, 100], [0, 0]]
    assert feature["properties"]["classification"]["name"] == "Tissue"


def test_tissue_and_confidence_of_an_archive(
    make: Callable[..., Path], pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    mask = np.ones((5, 6), bool)
    mask[0, :2] = False
    path = make(mask=mask)
    options = DecompressOptions(region=(256, 0, 1244, 1100), steps=2, guidance=1.0, geojson=True)
    report = decompress(path, tmp_path / "a.tif", options, pipeline=pipeline)
    tissue = json.loads((tmp_path / report.files["tissue"]).read_text())
    assert tissue["features"][0]["properties"]["objectType"] == "annotation"
    assert tissue["zoomldm"]["seed"] == 0
    found = json.loads((tmp_path / report.files["confidence"]).read_text())["features"]
    assert len(found) == 5 * 5 - 1  # tissue tiles in the region, that at the corner left out
    values = [f["properties"]["measurements"]["Confidence"] for f in found]
    assert all(-1 <= value <= 1 for value in values)
    assert found[0]["geometry"]["coordinates"][0][0] == [256, 0]
    # The same tile on its own: what is stored beside what is drawn.
    import tifffile

    from zoomldm.rendering import RenderOptions
    from zoomldm.rendering.opening import open_renderer

    quick = RenderOptions(steps=2, guidance=1.0)
    with open_archive(path) as archive, open_renderer(archive, pipeline, quick) as renderer:
        encoded = pipeline.encode_tiles(renderer.read(0, 512, 0, 256, 256)[None])[0]
        stored = archive.embeddings_of([0], [2])[0]
    cosine = encoded @ stored / np.linalg.norm(encoded) / np.linalg.norm(stored)
    assert values[0] == pytest.approx(float(cosine), abs=2e-4)
    assert tifffile.imread(tmp_path / "a.tif").shape == (1100, 1244, 3)
    coarse = DecompressOptions(level="5x", steps=2, guidance=1.0, geojson=True)
    report = decompress(path, tmp_path / "b.tif", coarse, pipeline=pipeline)
    assert list(report.files) == ["tissue"]

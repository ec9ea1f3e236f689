"""Base layers that are made for training are as those that archives show."""

from pathlib import Path

import numpy as np
import pytest
from archive.making import make_header

from zoomldm.archive import ArchiveWriter, open_archive
from zoomldm.data.coded import as_base_layer


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Coloured, with detail of all sizes."""
    random = np.random.default_rng(0)
    fields = [random.normal(0, 12 * n, (512 // n, 512 // n, 3)) for n in (1, 4, 16)]
    whole = sum(f.repeat(512 // len(f), 0).repeat(512 // len(f), 1) for f in fields)
    return (150 + np.asarray(whole) / 4).clip(0, 255).astype(np.uint8)


def test_it_is_what_an_archive_shows(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "one.zldm"
    with ArchiveWriter(path, make_header(2048, 2048, 8), np.zeros(8)) as writer:
        cells = [(r, c) for r in range(8) for c in range(8)]
        writer.add_embeddings(cells, np.random.default_rng(0).standard_normal((64, 8)))
        writer.add_base(2, pixels, "avif", 40, chunk=512)
    with open_archive(path) as archive:
        assert archive.base is not None
        shown = archive.base.read(0, 0, 512, 512)
    assert np.array_equal(as_base_layer(pixels, 40, speed=6), shown)


def test_quality_counts_and_the_margin_is_cut_off(pixels: np.ndarray) -> None:
    inner = pixels[32:-32, 32:-32].astype(float)
    fine, rough = (np.abs(as_base_layer(pixels, q, 32) - inner).mean() for q in (95, 20))
    assert fine < rough / 2
    assert as_base_layer(pixels[:128, :160], 40, 32).shape == (64, 96, 3)

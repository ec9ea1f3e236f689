"""Turned slides: their pixels, tissue, withheld blocks and archives are the turned ones."""

from pathlib import Path

import numpy as np
import pytest
from synthetic import paint_slide

from zoomldm.archive import open_archive, verify_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ConfigError
from zoomldm.geometry.levels import TILE
from zoomldm.geometry.orientation import TURNS, turn_array, turn_back
from zoomldm.geometry.withheld import withheld_block
from zoomldm.pipeline import build_pipeline
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue
from zoomldm.slides.turned import TurnedSlide


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turned")
    return paint_slide(folder / "a.tif", 2100, 1300, mpp=0.45, tissue=0.5)


def test_turns() -> None:
    values = np.array([[0, 1, 2], [3, 4, 5]])
    assert turn_array(values, 1).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert turn_array(values, 4).tolist() == [[2, 1, 0], [5, 4, 3]]
    all_ = [turn_array(values, t) for t in range(TURNS)]
    assert len({(a.shape, a.tobytes()) for a in all_}) == TURNS
    for turn, turned in enumerate(all_):
        assert np.array_equal(turn_back(turned, turn), values)


@pytest.mark.parametrize("turn", range(TURNS))
@pytest.mark.parametrize("level", [0, 3])
def test_pixels(path: Path, turn: int, level: int) -> None:
    with open_slide(path) as slide, TurnedSlide(open_slide(path), turn) as turned:
        rows, cols = slide.grid
        side = TILE >> level
        whole = turn_array(slide.read(level, 0, 0, cols * side, rows * side), turn)
        assert turned.grid == turn_array(np.empty((rows, cols)), turn).shape
        assert turned.level_size(level) == (whole.shape[1], whole.shape[0])
        np.testing.assert_array_equal(
            turned.read(level, 0, 0, whole.shape[1], whole.shape[0]), whole
        )
        for x, y, w, h in ((17, 33, 50, 21), (-30, 5, 45, 60), (whole.shape[1] - 9, -8, 40, 20)):
            found = turned.read(level, x, y, w, h)
            assert found.shape == (h, w, 3)
            padded = np.pad(whole, ((64, 64), (64, 64), (0, 0)), constant_values=255)
            expected = padded[y + 64 : y + 64 + h, x + 64 : x + 64 + w]
            assert np.abs(found.astype(int) - expected).max() <= 2  # each read is good to 1


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_tissue_and_withheld_block(path: Path, turn: int) -> None:
    with open_slide(path) as slide, TurnedSlide(open_slide(path), turn) as turned:
        mask, found = find_tissue(slide).mask, find_tissue(turned).mask
    np.testing.assert_array_equal(found, turn_array(mask, turn))
    block = withheld_block(found, 0.2, turn)
    np.testing.assert_array_equal(block, turn_array(withheld_block(mask, 0.2), turn))


def test_archives(path: Path, tmp_path: Path) -> None:
    pipeline = build_pipeline("tiny")
    for turn in (0, 5):
        options = CompressOptions(for_training=True, turn=turn)
        report = compress(path, tmp_path, options, pipeline=pipeline, name="tiny")
        again = compress(path, tmp_path, options, pipeline=pipeline, name="tiny")
        assert again.done_before and not report.done_before
    plain, turned = (open_archive(tmp_path / f"{n}.zldm") for n in ("a", "a.turn5"))
    assert (plain.turn, turned.turn) == (0, 5)
    assert (plain.manifest.version, turned.manifest.version) == ("1.4", "1.4")
    assert not verify_archive(tmp_path / "a.turn5.zldm")
    np.testing.assert_array_equal(turned.mask, turn_array(plain.mask, 5))
    with TurnedSlide(open_slide(path), 5) as slide:
        row, col = np.argwhere(turned.mask)[0]
        tile = slide.read(0, col * TILE, row * TILE, TILE, TILE)
        expected = pipeline.encode_tiles(tile[None])[0]
    found = turned.embeddings_of([row], [col])[0]
    assert np.corrcoef(found, expected)[0, 1] > 0.999
    assert turned.latent_levels == plain.latent_levels
    assert len(turned.offsets(3)) > 0


def test_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="turn is 8; expected 0 to 7"):
        CompressOptions(turn=8)
    slide = open_slide(path)
    with pytest.raises(ConfigError, match="turn is -1"):
        TurnedSlide(slide, -1)

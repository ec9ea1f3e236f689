"""Which tiles are tissue."""

import numpy as np
import pytest
from synthetic import paint_region, paint_slide
from test_slide import damage_tile

from zoomldm.errors import SlideError
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue, saturation_threshold


def slide_of(path, picture, **options):
    height, width = picture.shape[:2]
    return open_slide(paint_slide(path, width, height, picture=picture, jpeg=False, **options))


def test_tiles_with_a_twentieth_of_tissue(tmp_path):
    picture = np.full((1024, 1280, 3), 245, np.uint8)
    tissue = paint_region(256, 256, tissue=1.0)
    tissue = np.where(np.ptp(tissue, axis=2, keepdims=True) > 45, tissue, (200, 120, 170))
    picture[:256, 256:512] = tissue  # all of tile (0, 1)
    picture[512 : 512 + 64, 512 : 512 + 64] = tissue[:64, :64]  # 1/16 of tile (2, 2)
    picture[768 : 768 + 48, 0:48] = tissue[:48, :48]  # 1/28 of tile (3, 0)
    found = find_tissue(slide_of(tmp_path / "a.tif", picture))
    assert found.mask.shape == (4, 5) and found.tiles == 2
    assert found.mask[0, 1] and found.mask[2, 2]
    assert found.view_mpp == 8.0 and 12 <= found.threshold <= 40


def test_no_tissue_lost(tmp_path):
    picture = paint_region(2048, 2048, tissue=0.4, seed=3)
    found = find_tissue(slide_of(tmp_path / "a.tif", picture))
    pink = np.ptp(picture.astype(int), axis=2) > 40
    tissue_fraction = pink.reshape(8, 256, 8, 256).mean(axis=(1, 3))
    assert found.mask[tissue_fraction > 0.08].all() and not found.mask[tissue_fraction < 0.02].any()


@pytest.mark.parametrize(
    "paper", [(255, 255, 255), (244, 243, 245), (238, 232, 220), (0, 0, 0), (128, 128, 128)]
)
def test_paper_is_no_tissue(tmp_path, paper):
    rng = np.random.default_rng(0)
    picture = np.clip(np.array(paper) + rng.normal(0, 3, (600, 700, 3)), 0, 255).astype(np.uint8)
    slide = slide_of(tmp_path / "a.tif", picture)
    with pytest.raises(SlideError, match=r"no tissue .*--tissue all"):
        find_tissue(slide)
    assert find_tissue(slide, "all").mask.all()


def test_slide_full_of_tissue(tmp_path):
    picture = np.clip(paint_region(600, 600, tissue=1.0), 0, 255)
    picture[np.ptp(picture.astype(int), axis=2) < 20] = (220, 150, 190)
    assert find_tissue(slide_of(tmp_path / "a.tif", picture)).mask.all()


def test_black_padding_is_no_tissue(tmp_path):
    picture = paint_region(1024, 1024, tissue=1.0)
    picture[:, 512:] = 0
    mask = find_tissue(slide_of(tmp_path / "a.tif", picture)).mask
    assert mask[:, 0].any() and not mask[:, 2:].any()


def test_view_is_kept_on_request(tmp_path):
    slide = slide_of(tmp_path / "a.tif", paint_region(700, 500, tissue=0.5))
    assert find_tissue(slide).view is None
    view = find_tissue(slide, keep_view=True).view
    assert view is not None and view.shape == (32, 48, 3)
    assert (view == slide.read(4, 0, 0, 48, 32)).all()


def test_unreadable_view_is_left_to_the_reader(tmp_path):
    path = paint_slide(tmp_path / "a.tif", 1024, 1024, levels=1, tissue=0.0, jpeg=True)
    damage_tile(path, 10)
    mask = find_tissue(open_slide(path)).mask
    assert mask[2, 2] and mask.sum() <= 9


def test_threshold_bounds():
    counts = np.zeros(256, np.int64)
    assert saturation_threshold(counts) == 40
    counts[[2, 3, 4]] = 10_000
    counts[[100, 110]] = 9_000
    assert 12 <= saturation_threshold(counts) <= 40
    counts[:] = 0
    counts[[3, 12, 13]] = (10_000, 500, 500)
    assert saturation_threshold(counts) >= 12


def marked(pen, stroke: int, paper=(255, 255, 255), tissue=(225, 195, 215)) -> np.ndarray:
    """Pale tissue on tiles (1..2, 1..3) of 4 x 5, and one stroke of pen above it."""
    rng = np.random.default_rng(0)
    picture = np.full((1024, 1280, 3), paper, np.float32)
    picture[256:768, 256:1024] = tissue
    picture += rng.normal(0, 3 if paper != (255, 255, 255) else 0, (1024, 1280, 1))
    picture[50 : 50 + stroke, 100:1180] = pen
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("pen", [(20, 160, 60), (30, 60, 190), (200, 20, 30), (20, 20, 20)])
@pytest.mark.parametrize("stroke", [30, 120])
def test_pen_hides_no_pale_tissue(tmp_path, pen, stroke):
    found = find_tissue(slide_of(tmp_path / "a.tif", marked(pen, stroke)))
    assert found.mask[1:3, 1:4].all() and not found.mask[1:].sum() > 6


@pytest.mark.parametrize("paper", [(244, 243, 245), (238, 232, 220)])
def test_pen_makes_no_tissue_of_paper(tmp_path, paper):
    picture = marked((20, 160, 60), 60, paper)
    with_tissue = find_tissue(slide_of(tmp_path / "a.tif", picture)).mask
    assert with_tissue[1:3, 1:4].all() and with_tissue[1:].sum() == 6
    picture = marked((20, 160, 60), 60, paper, tissue=paper)
    picture[:, :100] = 255  # padding
    assert not find_tissue(slide_of(tmp_path / "b.tif", picture)).mask[1:].any()


def test_dark_tissue_hides_no_pale_tissue(tmp_path):
    picture = marked((255, 255, 255), 0)
    picture[256:512, 256:1024] = (120, 60, 140)
    mask = find_tissue(slide_of(tmp_path / "a.tif", picture)).mask
    assert mask[1:3, 1:4].all() and mask.sum() == 6


def test_pale_tissue_everywhere(tmp_path):
    picture = np.full((512, 512, 3), (225, 195, 215), np.uint8)
    assert find_tissue(slide_of(tmp_path / "a.tif", picture)).mask.all()


def test_real_slides(shared):
    for path in sorted((shared / "slides").glob("*.svs"))[:3]:
        found = find_tissue(open_slide(path))
        assert 16 <= found.threshold <= 30
        assert 0.1 < found.mask.mean() < 0.9

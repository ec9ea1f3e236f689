"""Measures of pictures against values that are known: equal, shifted, swapped, constant ones."""

import numpy as np
import pytest
from PIL import Image
from synthetic import texture

from zoomldm.errors import ConfigError
from zoomldm.evaluation.fidelity import (
    Seams,
    averaged,
    coarse_correlations,
    consistency,
    holes,
    pooled_seams,
    psnr,
    seams,
    sharpness,
    ssim,
)

REGION = texture()[:1024, :1024]
TILES = np.stack([REGION[:256, :256], REGION[256:512, :256]])


def blurred(picture: np.ndarray, step: int) -> np.ndarray:
    image = Image.fromarray(picture)
    return np.asarray(image.reduce(step).resize(image.size, Image.Resampling.BICUBIC))


def test_psnr_of_known_errors() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a + np.array([1, 10], np.uint8)[:, None, None, None]
    assert psnr(a, b) == pytest.approx([48.1308, 28.1308], abs=1e-3)
    assert psnr(a, a) == pytest.approx([100, 100])


def test_ssim_falls_with_detail() -> None:
    pytest.importorskip("skimage", reason="needs the extra `evaluation`")
    assert ssim(TILES, TILES) == pytest.approx([1, 1])
    soft = np.stack([blurred(t, 4) for t in TILES])
    softer = np.stack([blurred(t, 16) for t in TILES])
    assert (ssim(TILES, softer) < ssim(TILES, soft)).all()
    assert (ssim(TILES, soft) < 0.98).all()
    assert (ssim(TILES, TILES[::-1]) < 0.6).all()


def test_sharpness_of_a_step_and_of_nothing() -> None:
    flat = np.full((1, 10, 10, 3), 7, np.uint8)
    assert sharpness(flat) == 0
    step = flat.copy()
    step[:, :, 5:] = 17  # two of eight inner columns differ by 10 from one neighbour
    assert sharpness(step) == pytest.approx(10 * 2 / 8)


def test_averaged_cuts_what_does_not_fill_a_square() -> None:
    values = np.arange(20).reshape(4, 5)
    assert averaged(values, 2).tolist() == [[3, 5], [13, 15]]


def test_coarse_correlations_see_places_but_not_detail() -> None:
    same = coarse_correlations(REGION, REGION)
    assert list(same.values()) == pytest.approx([1, 1, 1])
    soft = coarse_correlations(REGION, blurred(REGION, 4))
    assert min(soft.values()) > 0.95
    softer = coarse_correlations(REGION, blurred(REGION, 16))
    assert softer["luminance_4um"] > softer["luminance_2um"]
    moved = coarse_correlations(REGION, np.roll(REGION, 100, 1))
    assert max(moved.values()) < 0.4
    pale = (255 - (255 - REGION) // 2).astype(np.uint8)
    assert min(coarse_correlations(REGION, pale).values()) > 0.98


def test_grey_nuclei_keep_luminance_and_lose_haematoxylin() -> None:
    """Pink for purple at the same luminance: only the stain tells them apart."""
    y, x = np.mgrid[:64, :64] // 8
    dark = ((y + x) % 2).astype(bool)
    real = np.where(dark[..., None], (110, 80, 160), (200, 185, 215)).astype(np.uint8)
    generated = np.where(dark[..., None], (230, 20, 104), (200, 185, 215)).astype(np.uint8)
    found = coarse_correlations(real, generated)
    assert found["luminance_2um"] > 0.99
    assert found["haematoxylin_2um"] < 0


def test_seams_of_tissue_are_one_and_of_shifted_windows_are_not() -> None:
    real = seams(REGION, 256)
    assert real.lines == 6
    assert 0.85 < real.mean < 1.15
    darker = REGION.astype(int)
    darker[:, 256:512] -= 12
    darker[512:768] += 6
    bad = seams(np.clip(darker, 0, 255).astype(np.uint8), 256)
    assert bad.mean > real.mean + 0.2
    assert bad.worst > 1.5


def test_seams_are_looked_for_where_the_lattice_is() -> None:
    picture = np.random.default_rng(0).integers(100, 110, (200, 200, 3)).astype(np.uint8)
    picture[:, 70:] += 40  # a step between columns 69 and 70
    picture[30:] += 40  # and between rows 29 and 30
    inside = seams(picture, 100, (0, 0)).worst
    assert inside < 1.3
    both = seams(picture, 100, (30, 70))  # lines where x + 30 and y + 70 are multiples of 100
    assert both.lines == 4
    assert both.worst > 5
    columns_alone = seams(picture, 100, (30, 0))
    assert columns_alone.worst > 5
    assert seams(picture, 100, (29, 0)).worst < 1.3
    with pytest.raises(ConfigError, match="no line"):
        seams(picture[:50, :50], 256, (10, 10))


def test_a_flat_picture_has_no_seams() -> None:
    assert seams(np.full((300, 300, 3), 9, np.uint8)).mean == pytest.approx(1)


def test_pooled_seams() -> None:
    pooled = pooled_seams([Seams(1.0, 1.1, 3), Seams(2.0, 2.5, 1)])
    assert pooled == Seams(1.25, 2.5, 4)


def test_holes_are_told_from_what_is_invented() -> None:
    tissue = np.full((128, 128, 3), (220, 150, 190), np.uint8)
    tissue[:, 64:] = 245
    assert holes(tissue, tissue, 2.0) == holes(tissue[:, ::-1], tissue[:, ::-1], 2.0)
    assert holes(tissue, tissue, 2.0).lost == 0
    image = tissue.copy()
    image[:32, :32] = 250  # a quarter of a half
    found = holes(tissue, image, 2.0)
    assert (found.lost, found.invented) == (pytest.approx(1 / 8), 0)
    back = holes(image, tissue, 2.0)
    assert back.lost == 0
    assert back.invented == pytest.approx((32 * 32) / (128 * 64 + 32 * 32))
    paler = (255 - (255 - tissue.astype(int)) * 0.8).astype(np.uint8)
    assert holes(tissue, paler, 2.0).lost == 0
    with pytest.raises(ConfigError, match="one size"):
        holes(tissue, image[:64], 2.0)


def test_consistency_of_a_child_with_its_parent() -> None:
    parent = np.asarray(Image.fromarray(REGION).reduce(2))
    assert consistency(parent, REGION).most <= 0.5
    other = parent.copy()
    other[:256] = np.clip(other[:256].astype(int) + 9, 0, 255)
    found = consistency(other, REGION)
    assert found.most == pytest.approx(9, abs=0.5)
    assert found.mean == pytest.approx(4.5, abs=0.6)
    assert found.beyond == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ConfigError, match="twice its size"):
        consistency(parent, REGION[:512])

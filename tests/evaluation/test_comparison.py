"""All measures together, on pictures of which it is known how right they are."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="needs the extra `evaluation`")

from evaluation.making import FIELD, JUDGES, Field
from zoomldm.errors import ConfigError
from zoomldm.evaluation.comparison import (
    Tissue,
    choose_places,
    choose_regions,
    measure_regions,
    spread,
    stained,
)
from zoomldm.evaluation.readers import enlarged_image

MASK = np.ones((8, 8), bool)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return Tissue(0, *choose_places(Field(), MASK, 0, 12), JUDGES)


def test_the_pictures_themselves_are_perfect(tissue: Tissue) -> None:
    found = tissue.measure(tissue.pixels)
    values = {name: m["value"] for name, m in found.items()}
    for name in (
        *("ssim", "detail", "retrieval", "retrieval_own", "precision", "recall", "f1"),
        "density_correlation",
    ):
        assert values[name] == pytest.approx(1), name
    for name in ("perceptual", "frechet", "kernel", "area_distance", "intensity_distance"):
        assert values[name] == pytest.approx(0, abs=1e-6), name
    assert values["psnr"] == pytest.approx(100)
    assert values["f1_by_chance"] < 0.4


def test_pictures_at_wrong_places_are_recognised_as_such(tissue: Tissue) -> None:
    """Real tissue of the right kind: distributions are alike, no place is."""
    found = tissue.measure(np.roll(tissue.pixels, 1, 0))
    values = {name: m["value"] for name, m in found.items()}
    assert values["retrieval"] == values["retrieval_own"] == 0
    assert values["f1"] < 0.4
    assert values["ssim"] < 0.6
    assert values["frechet"] == pytest.approx(0, abs=1e-6)
    assert values["detail"] == pytest.approx(1)
    assert values["area_distance"] == pytest.approx(0)


def test_blur_costs_detail_nuclei_and_distance(tissue: Tissue) -> None:
    def blurred(step: int) -> np.ndarray:
        images = (Image.fromarray(p).reduce(step).resize((256, 256)) for p in tissue.pixels)
        return np.stack([np.asarray(i) for i in images])

    little, much = (tissue.measure(blurred(s)) for s in (2, 8))
    for name in ("psnr", "ssim", "detail", "f1", "recall"):
        assert little[name]["value"] > much[name]["value"], name
    for name in ("perceptual", "frechet"):
        assert little[name]["value"] < much[name]["value"], name
    for measures in (little, much):
        for name in ("psnr", "ssim", "detail", "f1"):
            m = measures[name]
            assert m["low"] <= m["value"] <= m["high"], name


def test_half_of_the_pictures_right(tissue: Tissue) -> None:
    images = tissue.pixels.copy()
    images[:6] = np.roll(images[:6], 1, 0)
    hits = tissue.measure(images)["retrieval"]
    assert hits["value"] == 0.5
    assert hits["low"] < 0.5 or len(np.unique(tissue.clusters)) == 1


def test_patches_of_one_square_are_one_cluster(tissue: Tissue) -> None:
    assert len(np.unique(tissue.clusters)) == 1  # the field is 2,048 px a side
    places = np.array([[0, 0], [1792, 1792], [2048, 0], [0, 2048]])
    many = Tissue(0, places, tissue.pixels[:4], JUDGES)
    assert len(np.unique(many.clusters)) == 3
    assert many.clusters[0] == many.clusters[1]
    coarse = Tissue(3, places // 8, tissue.pixels[:4], JUDGES)
    assert (coarse.clusters == many.clusters).all()
    with pytest.raises(ConfigError, match="at least 2"):
        Tissue(0, places[:1], tissue.pixels[:1], JUDGES)


def test_places_are_stained_tissue() -> None:
    mask = MASK.copy()
    mask[:4] = False
    white = FIELD.copy()
    white[:, :1024] = 250
    places, pixels = choose_places(Field(white), mask, 0, 100)
    assert len(places) and (places[:, 1] >= 1024).all() and (places[:, 0] >= 1024).all()
    assert all(stained(p) > 0.5 for p in pixels)
    assert (pixels[0] == Field(white).read(0, *places[0], 256, 256)).all()
    again, _ = choose_places(Field(white), mask, 0, 5)
    assert len(again) == 5 and {tuple(p) for p in again} <= {tuple(p) for p in places}
    coarse, _ = choose_places(Field(), mask, 2, 100)
    assert coarse.tolist() == [[0, 256], [256, 256]]


def test_spread_pictures_are_stained() -> None:
    pixels = np.stack([FIELD[:256, :256], np.full((256, 256, 3), 250, np.uint8)] * 3)
    assert (spread(pixels, 2) == pixels[[0, 2]]).all() or (spread(pixels, 2) == pixels[0]).all()
    assert spread(pixels[1::2], 2).shape == (2, 256, 256, 3)


def test_regions_of_most_tissue_do_not_overlap() -> None:
    mask = np.zeros((12, 12), bool)
    mask[3:7, 4:8] = True
    mask[8:11, 0:3] = True
    found = choose_regions(mask, 2)
    assert found[0].tolist() == [4 * 256, 3 * 256]
    assert abs(found[1] - found[0]).max() >= 1024
    assert len(choose_regions(mask, 50)) < 10
    assert not len(choose_regions(np.zeros((4, 4), bool), 3))


def test_regions_of_the_slide_itself_are_perfect_and_a_hole_is_found() -> None:
    slide, regions = Field(), np.array([[512, 512]])
    base = enlarged_image(slide.levels[2], 2, (2048, 2048))
    same = measure_regions(slide, slide, regions, (base, 2))
    for name in ("luminance_4um", "luminance_2um", "haematoxylin_2um"):
        assert same[name] == pytest.approx(1)
    assert same["seams"] == same["seams_real"] and same["seams_worst"] == same["seams_real_worst"]
    assert same["lost"] == same["invented"] == 0
    assert max(same["child_10x"], same["child_5x"]) <= 0.75
    broken = FIELD.copy()
    broken[600:1100, 600:1100] = 255
    hole = measure_regions(slide, Field(broken), regions, (base, 2))
    assert hole["lost"] > 0.1
    assert hole["luminance_4um"] < 0.95

    class Unlike(Field):
        """Levels that have nothing to do with each other."""

        def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            return super().read(level, x, y, width, height)[:: -1 if level == 1 else 1]

    assert measure_regions(slide, Unlike(), regions)["child_10x"] > 30


def test_the_worst_region_counts_for_holes() -> None:
    slide = Field()
    base = enlarged_image(slide.levels[2], 2, (2048, 2048))
    broken = FIELD.copy()
    broken[:512, :512] = 255
    found = measure_regions(slide, Field(broken), np.array([[0, 0], [1024, 1024]]), (base, 2))
    alone = measure_regions(slide, Field(broken), np.array([[0, 0]]), (base, 2))
    assert found["lost"] == alone["lost"] > 0.1

"""Nuclei painted at known places are found there, and counted against each other rightly."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from zoomldm.errors import ConfigError

pytest.importorskip("skimage", reason="needs the extra `evaluation`")

from zoomldm.evaluation.nuclei import (
    Counts,
    Nuclei,
    compare_nuclei,
    correlation,
    count_matches,
    find_nuclei,
    haematoxylin,
    match_centroids,
)

PINK, PURPLE = (231, 178, 208), (98, 64, 140)


def paint(spots: np.ndarray, size: int = 256, radius: float = 6, colour=PURPLE) -> np.ndarray:
    """Nuclei at spots (n, 2) y and x in px on pink stroma."""
    zoom = 4
    image = Image.new("RGB", (size * zoom, size * zoom), PINK)
    draw = ImageDraw.Draw(image)
    for y, x in spots * zoom:
        r = radius * zoom
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(zoom)).reduce(zoom)
    return np.asarray(image)


def grid(step: int = 32) -> np.ndarray:
    y, x = np.mgrid[step // 2 : 256 : step, step // 2 : 256 : step]
    return np.stack([y.ravel(), x.ravel()], 1).astype(float)


def nuclei(*points: tuple[float, float], area: float = 20, intensity: float = 0.5) -> Nuclei:
    n = len(points)
    return Nuclei(
        np.array(points, float).reshape(-1, 2), np.full(n, area), np.full(n, intensity), (128, 128)
    )


def test_haematoxylin_tells_purple_from_pink_and_white() -> None:
    colours = np.array([[PURPLE, PINK, (255, 255, 255)]], np.uint8)
    purple, pink, white = haematoxylin(colours)[0]
    assert purple > 0.4 > 0.2 > pink > white
    assert white == pytest.approx(0, abs=1e-3)


def test_painted_nuclei_are_found_where_they_are() -> None:
    spots = grid()
    found = find_nuclei(paint(spots))
    assert len(found) == len(spots)
    pairs = match_centroids(spots * 0.5, found.centroids)
    assert len(pairs) == len(spots)
    apart = spots[pairs[:, 0]] * 0.5 - found.centroids[pairs[:, 1]]
    assert np.abs(apart).max() < 0.5
    assert found.areas.mean() == pytest.approx(np.pi * 3**2, rel=0.3)
    assert found.density == pytest.approx(len(spots) / 0.128**2)


def test_touching_nuclei_are_two() -> None:
    spots = np.array([[128.0, 110.0], [128.0, 123.0]])
    assert len(find_nuclei(paint(spots))) == 2


def test_pink_and_small_things_are_none() -> None:
    assert len(find_nuclei(paint(grid(), colour=(205, 120, 165)))) == 0
    assert len(find_nuclei(paint(grid(), radius=1.5))) == 0
    assert len(find_nuclei(np.full((64, 64, 3), 255, np.uint8))) == 0


def test_at_10x_places_are_the_same_in_um() -> None:
    picture = Image.fromarray(paint(grid())).reduce(2)
    found = find_nuclei(np.asarray(picture), 1.0)
    assert len(match_centroids(grid() * 0.5, found.centroids, 1.0)) == len(grid())
    with pytest.raises(ConfigError, match=r"2\.0 mpp; expected 1"):
        find_nuclei(np.asarray(picture), 2.0)


def test_matching_is_one_to_one_and_as_large_as_can_be() -> None:
    a = np.array([[0.0, 0.0], [0.0, 2.5]])
    b = np.array([[0.0, 1.0], [0.0, -2.9]])  # the nearest first would leave the others alone
    assert match_centroids(a, b).tolist() == [[0, 1], [1, 0]]
    assert len(match_centroids(a, np.array([[0.0, 1.0]]))) == 1
    assert len(match_centroids(a, a + 10)) == 0
    assert len(match_centroids(a, np.empty((0, 2)))) == 0


def test_shift_of_over_three_um_matches_nothing() -> None:
    picture = paint(grid())
    real = find_nuclei(picture)
    for px, expected in ((4, 1.0), (8, 0.0)):
        moved = find_nuclei(np.roll(picture, px, axis=1))
        score = compare_nuclei([real], [moved])["f1"]
        assert score == pytest.approx(expected, abs=0.13), px


def test_precision_is_of_what_was_made_and_recall_of_what_is_real() -> None:
    real = [nuclei((10, 10), (50, 50), (90, 90), (10, 90))]
    generated = [nuclei((10, 11), (70, 20))]
    scores = count_matches(real, generated).scores()
    assert scores == {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3)}
    back = count_matches(generated, real).scores()
    assert (back["precision"], back["recall"]) == (0.25, 0.5)


def test_scores_pool_nuclei_and_weigh_pictures() -> None:
    counts = Counts(np.array([10.0, 2.0]), np.array([10.0, 2.0]), np.array([10.0, 0.0]))
    assert counts.scores()["f1"] == pytest.approx(10 / 12)
    assert counts.scores(np.array([0.0, 3.0]))["f1"] == 0
    assert np.isnan(Counts(*np.zeros((3, 1))).scores()["f1"])


def test_comparison_of_known_sets() -> None:
    real = [nuclei((10, 10)), nuclei((10, 10), (40, 40)), nuclei((90, 90), (60, 10), (20, 70))]
    same = compare_nuclei(real, real)
    assert same["f1"] == same["density_correlation"] == pytest.approx(1)
    assert same["area_distance"] == same["intensity_distance"] == 0
    # against the next picture: (10, 10) is shared by the first two
    assert same["f1_by_chance"] == pytest.approx(2 * 1 / 12)
    larger = [Nuclei(n.centroids, n.areas + 5, n.intensities - 0.1, n.size) for n in real]
    other = compare_nuclei(real, larger)
    assert other["area_distance"] == pytest.approx(5)
    assert other["intensity_distance"] == pytest.approx(0.1)
    assert compare_nuclei(real, real[::-1])["density_correlation"] == pytest.approx(-1)


def test_correlation() -> None:
    a = np.arange(6.0)
    assert correlation(a, 3 * a - 2) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert np.isnan(correlation(a, np.ones(6)))

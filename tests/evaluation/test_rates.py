"""The study of rates: which settings, rows kept and found again, the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import paint_slide

pytest.importorskip("skimage", reason="needs the extra `evaluation`")

from tiny import filled_pipeline

from evaluation.making import JUDGES
from zoomldm.errors import ZoomLDMError
from zoomldm.evaluation import rates as subject
from zoomldm.evaluation.archive_rates import measure_archives, parse_archive
from zoomldm.evaluation.codecs import CodedSlide, Setting, parse_setting
from zoomldm.evaluation.fidelity_page import ratios_table, write_rates
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue

SETTINGS = [parse_setting(s) for s in ("avif:5x:300", "avif:5x:80", "jpeg:5x:300", "none:5x")]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_slide(tmp_path_factory.mktemp("rates") / "a.tif", 2048, 1536, tissue=0.9, seed=3)


@pytest.fixture(scope="module")
def rows(slide: Path):
    return subject.measure_settings(slide, SETTINGS, JUDGES, tiles=6, regions=1, levels=(0, 2))


def test_what_is_left_of_every_ratio() -> None:
    found = subject.archive_settings(24_000)
    assert set(found) == {(r, e) for r in subject.RATIOS for e in subject.EMBEDDINGS}
    assert found[100, 300] == []  # 240 bytes in all
    assert {s.bytes_per_tile for s in found[40, 300]} == {300}
    assert {s.bytes_per_tile for s in found[100, 0]} == {240}
    assert {(s.codec, s.level) for s in found[30, 0]} == {
        (c, k) for c, levels in subject.STORED.items() for k in levels
    }


def test_more_bytes_show_more(rows) -> None:
    at = {(r["setting"], r["level"]): r for r in rows}
    much, little = (at[str(s), "20x"] for s in SETTINGS[:2])
    whole = at["5x as it is", "20x"]
    for name in ("psnr", "ssim", "f1"):
        assert little["measures"][name]["value"] < much["measures"][name]["value"], name
    assert whole["measures"]["recall"]["value"] > little["measures"]["recall"]["value"]
    assert much["bytes"] <= 300 and little["bytes"] <= 80
    jpeg = at[str(SETTINGS[2]), "20x"]
    assert jpeg["measures"]["psnr"]["value"] < much["measures"]["psnr"]["value"]
    assert at["5x as it is", "5x"]["measures"]["psnr"]["value"] > 30
    assert "regions" in much and "regions" not in at[str(SETTINGS[0]), "5x"]
    assert "f1" not in at[str(SETTINGS[0]), "5x"]["measures"]


def test_a_decoder_takes_the_place_of_enlarging(slide: Path) -> None:
    """One that enlarges as the coded slide does gives the same, one that paints white does not."""
    asked = []

    def enlarge(base: np.ndarray, level: int) -> np.ndarray:
        asked.append(level)
        size = (base.shape[1] << level, base.shape[0] << level)
        return np.asarray(Image.fromarray(base).resize(size, Image.Resampling.BICUBIC))

    with open_slide(slide) as opened:
        coded = CodedSlide(opened, find_tissue(opened).mask, Setting("none", 2, float("inf")))
        reader = subject.Decoded(coded, enlarge)
        for level, box in ((0, (300, 500, 70, 50)), (1, (150, 250, 64, 32))):
            apart = reader.read(level, *box).astype(int) - coded.read(level, *box)
            assert np.abs(apart).mean() < 2, level
        assert (reader.read(2, 5, 6, 7, 8) == coded.read(2, 5, 6, 7, 8)).all()
        assert (reader.read(3, 5, 6, 7, 8) == coded.read(3, 5, 6, 7, 8)).all()
    assert asked == [2, 2]


def test_rows_are_kept_and_found_again(slide: Path, tmp_path: Path, monkeypatch) -> None:
    cache_path = tmp_path / "rows.json"
    first = subject.measure_settings(
        slide, SETTINGS[:1], JUDGES, tiles=4, regions=0, levels=(2,), cache_path=cache_path
    )
    monkeypatch.setattr(subject, "CodedSlide", None)
    again = subject.measure_settings(
        slide, SETTINGS[:1], JUDGES, tiles=4, regions=0, levels=(2,), cache_path=cache_path
    )
    assert again == first
    with pytest.raises(TypeError):  # another number of tiles is another row
        subject.measure_settings(
            slide, SETTINGS[:1], JUDGES, tiles=5, regions=0, levels=(2,), cache_path=cache_path
        )


def test_the_best_of_every_ratio(rows) -> None:
    chosen = [r for r in rows if r["level"] == "20x"]
    table = ratios_table(chosen, {(40, 300): SETTINGS[:1] + SETTINGS[2:3], (100, 300): []})
    assert table is not None
    best = table.splitlines()[2]
    assert best.startswith("| 40 | 300 | 300 |") and best.count("(avif 5x)") >= 3
    assert ratios_table(chosen, {(40, 300): [Setting("webp", 2, 9)]}) is None


def test_page_and_curves(rows, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `evaluation`")
    between = [{"slide": "a.tif", "pictures": "b.tif", "n": 6, "frechet": 2.0, "kernel": 0.1}]
    files = write_rates(rows, between, tmp_path / "rates.md", "zoomldm evaluate rates")
    names = [f.name for f in files]
    assert names == ["rates.md", "rates.json", "rates-a-20x.png", "rates-a-5x.png"]
    text = files[0].read_text()
    assert "| b.tif | 6 | 2 | 0.10 |" in text and "avif 5x, 300 bytes" in text
    assert all(f.stat().st_size > 100 for f in files)


def test_between_cases(slide: Path, tmp_path: Path) -> None:
    other = paint_slide(tmp_path / "b.tif", 2048, 1536, tissue=0.9, seed=8)
    found = subject.between_cases([slide, other], JUDGES, tiles=8)
    assert [(r["slide"], r["pictures"]) for r in found] == [
        ("a.tif", "other tiles of it"),
        ("a.tif", "b.tif"),
        ("b.tif", "other tiles of it"),
        ("b.tif", "a.tif"),
    ]
    assert found[1]["frechet"] > 0


def test_archives_of_two_ratios_beside_a_codec(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = filled_pipeline("tiny-octaves")
    settings = [parse_archive(s) for s in ("12:5x", "40:2.5x", "none")]
    cache_path = tmp_path / "rows.json"

    def measured() -> list[dict]:
        return measure_archives(
            slide, settings, JUDGES, pipeline, tiles=4, levels=(0, 2), cache_path=cache_path
        )

    rows = measured()
    assert [(r["setting"], r["level"]) for r in rows] == [
        (str(s), level) for s in settings for level in ("20x", "5x")
    ]
    large, small, alone = rows[::2]
    assert large["bytes"] > small["bytes"] > alone["bytes"] > 0
    assert large["ratio"] < small["ratio"] < alone["ratio"]
    at_5x = [r["measures"]["psnr"]["value"] for r in rows[1::2]]
    assert at_5x[0] > at_5x[1] > at_5x[2]  # 5x is stored, made of 2.5x, made of nothing
    monkeypatch.setattr("zoomldm.evaluation.archive_rates.compress", None)
    assert repr(measured()) == repr(rows)  # found again, not measured; with what is no number


@pytest.mark.parametrize("text", ["45", "45:6x", "x:5x", "1:5x", "nan:5x", ""])
def test_no_archive(text: str) -> None:
    with pytest.raises(ZoomLDMError, match=r"expected RATIO:LEVEL|levels are"):
        parse_archive(text)

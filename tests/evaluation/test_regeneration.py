"""What archives show, held against their slides: columns, figures, pages."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import paint_slide

pytest.importorskip("skimage", reason="needs the extra `evaluation`")

from evaluation.making import JUDGES
from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.evaluation import regeneration as subject
from zoomldm.evaluation.fidelity_page import fidelity_table, regions_table, write_fidelity
from zoomldm.generation.options import RenderOptions
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.slides import open_slide


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    slide = paint_slide(folder / "a.tif", 2048, 1536, tissue=0.9, seed=3)
    compress(slide, folder / "a.zldm", CompressOptions(), pipeline=build_pipeline("tiny"))
    return slide, folder / "a.zldm"


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    return build_pipeline("tiny")


class Copy:
    """A renderer that shows the slide itself, or its mirror image without a base layer."""

    def __init__(self, slide: Path) -> None:
        self.slide = open_slide(slide)
        self.seen: list[bool] = []

    def __call__(self, archive, pipeline, options):
        based = archive.base is not None
        self.seen.append(based)
        outer = self

        class Reader:
            def read(self, *box: int) -> np.ndarray:
                pixels = outer.slide.read(*box)
                return pixels if based else np.ascontiguousarray(pixels[:, ::-1])

        return Reader()


def test_base_layer_is_read_at_every_level_and_weighed(pair) -> None:
    with open_archive(pair[1]) as archive:
        found = subject.base_layer(archive)
        assert found is not None
        reader, level, count = found
        members = {m.name: m.size for m in archive.manifest.members}
        assert 0 < count < archive.file_bytes
        assert count == sum(v for k, v in members.items() if k.startswith(("base/", "overview/")))
        width, height = (n >> level for n in archive.size)
        own = archive.base.read(0, 0, width, height)
        assert (reader.read(level, 0, 0, width, height) == own).all()
        assert reader.read(level - 1, 0, 0, 64, 64).shape == (64, 64, 3)
        assert subject.base_layer(subject.WithoutBase(archive)) is None  # type: ignore[arg-type]


def test_columns_say_what_they_cost(pair, pipeline) -> None:
    with open_slide(pair[0]) as slide, open_archive(pair[1]) as archive:
        draw = Copy(pair[0])
        columns = subject.columns_of(slide, archive, pipeline, RenderOptions(), render=draw)
        assert list(columns) == [
            *(subject.REAL, subject.BASE, subject.CODEC),
            *(subject.WITH_BASE, subject.ALONE),
        ]
        assert draw.seen == [True, False]
        cost = {name: c.bytes_per_tile for name, c in columns.items()}
        whole = archive.file_bytes / archive.mask.sum()
        assert cost[subject.REAL] is None
        assert cost[subject.WITH_BASE] == pytest.approx(whole)
        assert cost[subject.ALONE] + cost[subject.BASE] == pytest.approx(whole)
        assert cost[subject.CODEC] <= whole


def test_an_archive_of_another_slide_is_refused(pair, pipeline, tmp_path) -> None:
    other = paint_slide(tmp_path / "b.tif", 1024, 1024)
    with pytest.raises(ArchiveError, match="give slides and archives in pairs"):
        subject.measure_regeneration([(other, pair[1])], pipeline, JUDGES)
    with pytest.raises(ConfigError, match="no slides"):
        subject.measure_regeneration([], pipeline, JUDGES)


@pytest.fixture(scope="module")
def measured(pair, pipeline):
    return subject.measure_regeneration(
        [pair], pipeline, JUDGES, levels=(0, 7), tiles=6, regions=1, render=Copy(pair[0])
    )


def test_a_copy_is_perfect_and_a_mirror_image_is_not(measured) -> None:
    figures, sheets = measured
    (slide,) = figures["slides"]
    assert [lv["level"] for lv in slide["levels"]] == ["20x"]  # too few patches at 0.15625x
    rows = {r["pictures"]: r for r in slide["levels"][0]["rows"]}
    copied, mirrored = (rows[n]["measures"] for n in (subject.WITH_BASE, subject.ALONE))
    for name in ("ssim", "f1", "retrieval", "detail"):
        assert copied[name]["value"] == pytest.approx(1), name
        assert mirrored[name]["value"] <= 1.0001, name
    assert copied["embedding"]["value"] > 0.99
    assert copied["embedding"]["value"] > mirrored["embedding"]["value"]
    assert mirrored["f1"]["value"] < 0.5
    assert rows[subject.BASE]["measures"]["detail"]["value"] < 0.5
    assert rows[subject.WITH_BASE]["regions"]["lost"] == 0
    assert rows[subject.WITH_BASE]["regions"]["luminance_2um"] == pytest.approx(1)
    assert list(sheets) == ["a-20x"]
    assert sheets["a-20x"].shape == (18 + 6 * 256, 5 * 256, 3)


def test_the_page_holds_every_way_and_every_picture(measured, tmp_path) -> None:
    figures, sheets = measured
    files = write_fidelity(figures, sheets, tmp_path / "page.md", "zoomldm evaluate fidelity")
    assert [f.name for f in files] == ["page.md", "page.json", "page-a-20x.jpg"]
    text = files[0].read_text()
    for part in (*(r["pictures"] for r in figures["slides"][0]["levels"][0]["rows"]), "a.tif"):
        assert part in text
    assert "![Places at 20x](page-a-20x.jpg)" in text
    assert json.loads(files[1].read_text())["digest"] == figures["digest"]
    level = figures["slides"][0]["levels"][0]
    table = fidelity_table(level)
    assert table.count("\n") == 1 + len(level["rows"])
    assert "nuclei F1" in table and "embedding, cosine" in table
    assert "seams" in (regions_table(level) or "")
    with pytest.raises(TargetError, match=r"ending in \.md"):
        write_fidelity(figures, sheets, tmp_path / "page.html", "")
    with pytest.raises(TargetError, match="does not exist"):
        write_fidelity(figures, sheets, tmp_path / "none" / "page.md", "")


def test_from_what_decompress_draws(pair, pipeline) -> None:
    """The renderer that is used without being told is the one of `decompress`."""
    figures, _ = subject.measure_regeneration(
        [pair],
        pipeline,
        JUDGES,
        levels=(1,),
        tiles=4,
        regions=0,
        alone=False,
        options=RenderOptions(steps=2),
    )
    rows = figures["slides"][0]["levels"][0]["rows"]
    assert [r["pictures"] for r in rows] == [subject.BASE, subject.CODEC, subject.WITH_BASE]
    assert "regions" not in rows[0]

"""BigTIFF written block by block and opened by other readers."""

import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from painted import PROVENANCE, Painted, write

from zoomldm.slides import open_slide
from zoomldm.writers.tiff import Flavour, Tiff

SOURCE = Painted(2300, 1400, 4)
SIZES = ((2300, 1400), (1150, 700), (575, 350), (288, 175))


@pytest.mark.parametrize("flavour", ["plain", "ome", "aperio"])
def test_openslide_opens_all_levels(tmp_path: Path, flavour: Flavour) -> None:
    path = write(tmp_path / "a.tif", Tiff(flavour), SOURCE)
    with openslide.OpenSlide(path) as slide:
        if flavour == "ome":  # OpenSlide looks at pages, not at SubIFDs
            assert slide.level_dimensions == SIZES[:1]
        else:
            assert slide.level_dimensions == SIZES
            for level, picture in enumerate(SOURCE.pictures):
                found = slide.read_region((0, 0), level, SIZES[level]).convert("RGB")
                assert np.abs(np.asarray(found, int) - picture).mean() < 6
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        if flavour == "aperio":
            assert slide.properties["openslide.vendor"] == "aperio"
            assert slide.properties["openslide.objective-power"] == "20"
            assert json.loads(slide.properties["aperio.zoomldm"]) == PROVENANCE
            assert slide.associated_images["thumbnail"].size == SIZES[-1]
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        (series, *_) = tiff.series
        assert [part.shape[:2] for part in series.levels] == [s[::-1] for s in SIZES]
        for level, picture in enumerate(SOURCE.pictures):
            assert np.abs(series.levels[level].asarray().astype(int) - picture).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_our_own_reader_takes_the_plain_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", Tiff(), SOURCE)
    assert tuple(open_slide(path).level_sizes) == SIZES
    with tifffile.TiffFile(path) as tiff:
        assert json.loads(tiff.pages[0].description) == PROVENANCE  # type: ignore[union-attr]


def test_ome_says_scale_and_provenance(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", Tiff("ome"), SOURCE)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        text = tiff.ome_metadata or ""
    found = tifffile.xml2dict(text)["OME"]
    pixels = found["Image"]["Pixels"]
    assert (pixels["SizeX"], pixels["SizeY"], pixels["PhysicalSizeX"]) == (2300, 1400, 0.5)
    note = found["StructuredAnnotations"]["CommentAnnotation"]["Value"]
    assert json.loads(note) == PROVENANCE if isinstance(note, str) else note == PROVENANCE
    assert "20x, 10x; not for diagnosis" in found["Image"]["Description"]


def test_coarse_first_level_keeps_its_mpp(tmp_path: Path) -> None:
    for name, writer in (("a.tif", Tiff()), ("a.svs", Tiff("aperio"))):
        path = write(tmp_path / name, writer, Painted(1100, 900, 1, mpp=4.0))
        with openslide.OpenSlide(path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(4.0)

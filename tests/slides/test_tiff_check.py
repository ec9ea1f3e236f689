"""TIFFs that OpenSlide opens, but reads otherwise than their tags say."""

import numpy as np
import pytest
import tifffile
from synthetic import paint_region

from zoomldm.errors import SlideError
from zoomldm.slides import open_slide, openslide_backend, tiff_check
from zoomldm.slides.openslide_backend import OpenSlideBackend
from zoomldm.slides.scale import find_scale, property_scales

PICTURE = paint_region(430, 390, tissue=1.0)
MPP = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
TILED = {"photometric": "rgb", "compression": "zlib", "tile": (64, 64)}
APERIO = "Aperio Image Library v1\r\n430x390 (64x64) JPEG|AppMag = {power}|MPP = {mpp}|Left = 1"


def whole(slide) -> np.ndarray:
    return slide.read(0, 0, 0, *slide.size)


def ome(path, images, **options):
    """An OME-TIFF of (pixels, mpp or None) with one smaller level each."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for pixels, mpp in images:
            scale = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp} if mpp else {}
            tiff.write(pixels, subifds=1, metadata={"axes": "YXS", **scale}, **options)
            small = np.ascontiguousarray(pixels[::2, ::2])
            tiff.write(small, subfiletype=1, **options)
    return path


STRIPS = {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 50}


@pytest.mark.parametrize("options", [TILED, STRIPS])
def test_ome_tiff_has_its_scale_and_levels(tmp_path, options):
    slide = open_slide(ome(tmp_path / "a.ome.tif", [(PICTURE, 0.5)], **options))
    assert (slide.mpp_source, slide.mpp_x, slide.vendor) == ("ome", 0.5, "ome-tiff")
    assert slide.level_sizes == [(430, 390), (215, 195)]
    assert (whole(slide) == PICTURE).all()


@pytest.mark.parametrize("options", [TILED, STRIPS])
@pytest.mark.parametrize("macro", [4.0, 30.0, None])
@pytest.mark.parametrize("first", [True, False])
def test_scale_of_the_image_that_is_read(tmp_path, options, macro, first):
    images = [(np.full((100, 120, 3), 90, np.uint8), macro), (PICTURE, 0.5)]
    slide = open_slide(ome(tmp_path / "a.ome.tif", images if first else images[::-1], **options))
    assert (slide.mpp_source, slide.mpp_x, slide.size) == ("ome", 0.5, (430, 390))
    assert (whole(slide) == PICTURE).all()


def test_images_of_one_size_have_their_own_scale(tmp_path):
    """The first of two alike is read."""
    images = [(PICTURE, 0.5), (PICTURE // 2, 1.0)]
    slide = open_slide(ome(tmp_path / "a.ome.tif", images, **TILED))
    assert slide.mpp_x == 0.5 and (whole(slide) == PICTURE).all()


def test_larger_picture_further_on(tmp_path):
    """OpenSlide takes the first tiled picture alone where no mark says that others are smaller."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        small = np.ascontiguousarray(PICTURE[::4, ::4])
        tiff.write(small, metadata=None, **MPP, **TILED)
        tiff.write(PICTURE, metadata=None, **MPP, **TILED)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.size == (430, 390) and (whole(slide) == PICTURE).all()


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("options", [TILED, {}, STRIPS])
@pytest.mark.parametrize("levels", [1, 2])
def test_orientation(tmp_path, tag, options, levels):
    """As EXIF and TIFF define it: where row 0 and column 0 of what is stored lie."""
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, 1),
        7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
        8: np.rot90(PICTURE, -1),
    }[tag]
    options = {"photometric": "rgb"} | options | {"metadata": None}
    tags = [(274, 3, 1, tag, True)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for level in range(levels):
            pixels = np.ascontiguousarray(stored[:: 2**level, :: 2**level])
            scale = {"resolution": (20000, 20400), "resolutionunit": "CENTIMETER"}
            tiff.write(pixels, subfiletype=level, extratags=tags, **options, **scale)
    with pytest.warns(UserWarning, match="differs between the axes"):
        slide = open_slide(tmp_path / "a.tif")
    assert slide.native_size == (430, 390)
    assert (slide.mpp_x < slide.mpp_y) == (tag > 4)
    backend = slide._opened()
    assert len(slide.level_sizes) == levels
    for x, y, w, h in ((0, 0, 430, 390), (33, 70, 201, 99), (429, 389, 1, 1)):
        got = np.asarray(backend.read(0, x, y, w, h).convert("RGB"))
        assert (got == PICTURE[y : y + h, x : x + w]).all()


def test_orientation_that_only_the_slide_has(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tags = [(274, 3, 1, 3, True)]
        tiff.write(PICTURE, extratags=tags, metadata=None, **MPP, **TILED)
        small = np.ascontiguousarray(PICTURE[::2, ::2])
        tiff.write(small, subfiletype=1, metadata=None, **MPP, **TILED)
    with pytest.warns(UserWarning, match="lies otherwise"):
        slide = open_slide(tmp_path / "a.tif")
    assert slide.level_sizes == [(430, 390)]
    assert (whole(slide) == PICTURE[::-1, ::-1]).all()


def test_orientation_of_a_scanners_own_format(tmp_path):
    """OpenSlide turns each tile by itself there, and nothing else reads the format."""
    path = tmp_path / "a.tif"
    tags = [(274, 3, 1, 3, True)]
    tifffile.imwrite(path, PICTURE, extratags=tags, metadata=None, **MPP, **TILED)
    with pytest.raises(SlideError, match="Orientation tag is 3"):
        tiff_check.check_tiff(path, "philips-tiff", (430, 390))


class TestAperioDescription:
    def written(self, path, power=20, mpp=0.5, **options):
        text = APERIO.format(power=power, mpp=mpp)
        tifffile.imwrite(path, PICTURE, description=text, metadata=None, **options)
        return path

    def test_scale(self, tmp_path):
        """Such a file is no Aperio slide to OpenSlide, for one reason or another."""
        path = self.written(tmp_path / "a.tif", mpp="0,5", resolution=(1, 1), **STRIPS)
        slide = open_slide(path)
        assert (slide.mpp_source, slide.mpp_x, slide.vendor) == ("aperio.MPP", 0.5, "generic-tiff")
        assert slide.properties["objective_power"] == "20"

    def test_scale_of_a_generic_tiff(self, tmp_path):
        path = self.written(tmp_path / "a.tif", resolution=(1, 1), **TILED)
        found = tiff_check.check_tiff(path, "generic-tiff", (430, 390))
        assert found.scales[0] == ("aperio.MPP", 0.5, 0.5) and found.power == 20
        scales = property_scales({"openslide.vendor": "generic-tiff"}, found.scales)
        assert find_scale(path, scales, None).source == "aperio.MPP"

    def test_tiled_label(self, tmp_path):
        path = tmp_path / "a.svs"
        label = np.full((100, 130, 3), 90, np.uint8)
        with tifffile.TiffWriter(path) as tiff:
            text = APERIO.format(power=20, mpp=0.5)
            tiff.write(PICTURE, description=text, metadata=None, **TILED)
            text = "Aperio Image Library v1\r\nlabel 130x100"
            tiff.write(label, subfiletype=1, description=text, metadata=None, **TILED)
        with pytest.warns(UserWarning, match="130 x 100"):
            slide = open_slide(path)
        assert slide.level_sizes == [(430, 390)] and slide.mpp_x == 0.5

    @pytest.mark.parametrize("options", [TILED, STRIPS])
    def test_magnification_that_contradicts(self, tmp_path, options):
        path = self.written(tmp_path / "a.tif", power=40, mpp=1.0, **options)
        with pytest.warns(UserWarning) as caught:
            open_slide(path)
        assert "don't go with its magnification of 40 (about 0.25)" in str(caught[0].message)


def test_imagej_unit(tmp_path):
    text = "ImageJ=1.53\nunit=micron\n"
    options = TILED | {"description": text, "metadata": None, "resolutionunit": "NONE"}
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, resolution=(2, 2), **options)
    assert open_slide(tmp_path / "a.tif").mpp_x == 0.5


@pytest.mark.parametrize("code", [4, 5])
def test_units_beyond_the_standard(tmp_path, code):
    density = {4: 2000, 5: 2}[code]
    options = TILED | {"metadata": None, "resolutionunit": code}
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, resolution=(density, density), **options)
    assert open_slide(tmp_path / "a.tif").mpp_x == 0.5


def test_pages_that_cannot_be_read_directly_are_told_of(tmp_path, monkeypatch):
    """Else a change in tifffile would give other pixels, and other embeddings, silently."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE, metadata=None, **MPP, **TILED)

    def changed(*_, **__):
        raise TypeError("no such argument")

    backend = OpenSlideBackend(path, 1 << 20)
    monkeypatch.setattr(openslide_backend.tifffile, "TiffFile", changed)
    with pytest.warns(UserWarning, match="no such argument"):
        backend._direct_level(0)
    with pytest.warns(UserWarning, match="no such argument"):
        OpenSlideBackend(path, 1 << 20)

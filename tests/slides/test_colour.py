"""ICC profiles."""

import numpy as np
import pytest
from PIL import ImageCms
from synthetic import paint_slide

from zoomldm.slides import open_slide
from zoomldm.slides.colour import Colour, slide_colour


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """The sRGB profile whose red and blue primaries have changed places."""
    profile = bytearray(srgb())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def test_profile_is_applied(tmp_path):
    plain = open_slide(paint_slide(tmp_path / "a.tif", 300, 300, tissue=1.0))
    slide = open_slide(paint_slide(tmp_path / "b.tif", 300, 300, tissue=1.0, icc=swapped()))
    assert plain.icc is None and slide.icc
    for level in (0, 3):
        size = plain.level_size(level)
        before = plain.read(level, 0, 0, *size).astype(int)
        after = slide.read(level, 0, 0, *size).astype(int)
        assert np.abs(after - before[..., ::-1]).mean() < 2
    uncorrected = open_slide(slide.path, icc=False)
    assert uncorrected.icc is None
    assert (uncorrected.read(0, 0, 0, 99, 99) == plain.read(0, 0, 0, 99, 99)).all()


def test_srgb_costs_nothing():
    assert Colour(srgb()).identity
    assert not Colour(swapped()).identity


def test_broken_profile_warns(tmp_path):
    with pytest.warns(UserWarning, match="ICC profile"):
        assert slide_colour(tmp_path / "a.tif", b"nonsense") is None
    assert slide_colour(tmp_path / "a.tif", None) is None

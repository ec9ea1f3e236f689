"""The mpp ladder."""

import math
import warnings
from pathlib import Path

import pytest

from zoomldm.errors import SlideError
from zoomldm.slides.backend import ScaleCandidate
from zoomldm.slides.scale import (
    Scale,
    find_scale,
    micrometres,
    property_scales,
    resolution_mpp,
    warn_of_scale,
)

PATH = Path("a.svs")
NAN = math.nan


def test_order():
    own, tiff = ScaleCandidate("openslide.mpp", 0.25, 0.25), ScaleCandidate("tiff", 0.5, 0.5)
    assert find_scale(PATH, [own, tiff], 0.4) == Scale(0.4, 0.4, "option")
    assert find_scale(PATH, [own, tiff], None).source == "openslide.mpp"
    assert find_scale(PATH, [ScaleCandidate("own", NAN, NAN), tiff], None).source == "tiff"
    assert find_scale(PATH, [ScaleCandidate("own", 250.0, 250.0), tiff], None).source == "tiff"


@pytest.mark.parametrize("mpp", [0, -1, 50, NAN])
def test_implausible_option(mpp):
    with pytest.raises(SlideError, match=r"0\.05 to 5"):
        find_scale(PATH, [], mpp)


def test_nothing_known():
    with pytest.raises(SlideError, match=r"a.svs: no mpp .* --mpp"):
        find_scale(PATH, [ScaleCandidate("own", NAN, NAN)], None)
    with pytest.raises(SlideError, match=r"implausible mpp \(tiff 352.8\).*--mpp"):
        find_scale(PATH, [ScaleCandidate("tiff", 352.8, 352.8)], None)


def test_axes_that_differ_warn():
    with pytest.warns(UserWarning, match="differs between the axes"):
        find_scale(PATH, [ScaleCandidate("own", 0.25, 0.26)], None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_scale(PATH, [ScaleCandidate("own", 0.25, 0.251)], None)


def test_units():
    assert resolution_mpp("20000", "centimeter") == 0.5
    assert resolution_mpp("50800", "inch") == 0.5
    assert math.isnan(resolution_mpp("0", "inch"))
    assert math.isnan(resolution_mpp(None, "inch"))
    assert micrometres("250", "nm") == 0.25
    assert micrometres("0.25", "\u00b5m") == 0.25
    assert math.isnan(micrometres("1", "pixel"))


def test_generic_tiff_states_its_resolution():
    properties = {
        "openslide.vendor": "generic-tiff",
        "openslide.mpp-x": "0.5",
        "openslide.mpp-y": "0.5",
        "tiff.XResolution": "20000",
        "tiff.YResolution": "20000",
        "tiff.ResolutionUnit": "centimeter",
    }
    assert find_scale(PATH, property_scales(properties), None) == Scale(0.5, 0.5, "tiff resolution")


def test_magnification_that_contradicts_warns():
    mpp = Scale(1.0, 1.0, "openslide.mpp")
    with pytest.warns(UserWarning, match=r"magnification of 40 \(about 0.25\)"):
        warn_of_scale(PATH, mpp, "40", aperio=True)
    with pytest.warns(UserWarning, match="magnification of 40"):
        warn_of_scale(PATH, mpp, "40", aperio=False)


@pytest.mark.parametrize(
    ("mpp", "power", "aperio"),
    [(0.499, "20", True), (0.2526, "40", True), (0.2325, "20", False), (0.5, None, False)],
)
def test_ordinary_scales_are_silent(mpp, power, aperio):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(PATH, Scale(mpp, mpp, "openslide.mpp"), power, aperio)
        warn_of_scale(PATH, Scale(0.5, 0.5, "option"), "40", aperio)


def test_coarse_scan_warns():
    with pytest.warns(UserWarning, match=r"coarser than 20x .* enlarged 8\.0 times"):
        warn_of_scale(PATH, Scale(4.0, 4.0, "option"), None, aperio=False)

"""Information from a TIFF page's tags: conversion of samples to RGB, orientation and scale."""

import math
import re
import xml.etree.ElementTree as ElementTree
from enum import Enum
from typing import NamedTuple

import numpy as np
import tifffile

from zoomldm.errors import SlideError
from zoomldm.slides.backend import ScaleCandidate
from zoomldm.slides.scale import micrometres, number, resolution_mpp

JPEG = {6, 7, 33007, 34892}
_APERIO_YCBCR = 33003  # Aperio's JPEG 2000 with YCbCr samples, whatever its tags say
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}  # codecs that leave YCbCr as it is
_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
_KINDS = {"u": "unsigned", "i": "signed", "f": "float", "c": "complex", "b": "unsigned"}
_ASSOCIATED, _UNASSOCIATED = 1, 2


class Colours(Enum):
    """What the colour samples of a pixel are."""

    GREY = "grey"
    INVERTED = "grey, 0 is white"
    RGB = "RGB"
    YCBCR = "YCbCr"
    CMYK = "CMYK"


_PHOTOMETRIC = {0: Colours.INVERTED, 1: Colours.GREY, 2: Colours.RGB, 5: Colours.CMYK}
_COUNT = {Colours.GREY: 1, Colours.INVERTED: 1, Colours.CMYK: 4}
_WHITE = {
    Colours.INVERTED: (0,),
    Colours.YCBCR: (255, 128, 128),
    Colours.CMYK: (0, 0, 0, 0),
}


class Samples(NamedTuple):
    """How the 8-bit samples of a decoded pixel are converted to a colour.

    Attributes:
        colours: colour space of the first samples.
        count: number of colour samples.
        alpha: index of the opacity sample, None if there is none.
        premultiplied: whether colours are multiplied by opacity.
        white: all samples of an opaque white pixel.
    """

    colours: Colours
    count: int
    alpha: int | None
    premultiplied: bool
    white: tuple[int, ...]


def _called(page: tifffile.TiffPage) -> str:
    try:
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
    except ValueError:
        photometric = f"photometric {int(page.photometric)}"
    kind = _KINDS.get(page.dtype.kind, str(page.dtype)) if page.dtype is not None else "unknown"
    bits = page.bitspersample
    return f"{page.samplesperpixel} samples of {bits} bits ({kind}) per pixel, {photometric}"


def _refusal(page: tifffile.TiffPage, more: str = "") -> SlideError:
    return SlideError(f"found {_called(page)}{more}; expected 8-bit RGB: convert it to that")


def _colours(page: tifffile.TiffPage) -> Colours:
    """The colour space of the samples once decoded.

    Raises:
        SlideError: one that can't be converted to RGB here.
    """
    compression, photometric = int(page.compression), int(page.photometric)
    if compression == _APERIO_YCBCR:
        return Colours.YCBCR
    if photometric == 6:
        if compression not in _LOSSLESS:
            return Colours.RGB  # the decoder converts
        tags = page.tags
        if tuple(tags.valueof(530, (2, 2))) != (1, 1):
            raise _refusal(page, " with fewer samples of Cb and Cr")
        for code, usual in ((529, (0.299, 0.587, 0.114)), (532, (0, 255, 128, 255, 128, 255))):
            found = _rationals(tags.valueof(code))
            if found and not np.allclose(found, usual, atol=0.01):
                raise _refusal(page, f" with unusual coefficients (tag {code})")
        return Colours.YCBCR
    if photometric not in _PHOTOMETRIC or (photometric == 5 and page.tags.valueof(332, 1) != 1):
        raise _refusal(page)
    return _PHOTOMETRIC[photometric]


def _rationals(value: object) -> list[float]:
    """The numbers of a rational tag, which tifffile returns as consecutive pairs."""
    numbers = np.asarray(value if value is not None else [], float).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        return (numbers[::2] / numbers[1::2]).tolist()


def samples_of(page: tifffile.TiffPage) -> Samples:
    """How the samples of a page are converted to RGB.

    A fourth sample beside RGB is opacity if its tag says so or if there is no tag; it is ignored if
    the tag leaves its meaning open.

    Raises:
        SlideError: unsupported samples; the message names their kind, but not the file.
    """
    if page.dtype != np.uint8 or page.bitspersample != 8 or page.imagedepth != 1:
        raise _refusal(page)
    colours = _colours(page)
    count, total = _COUNT.get(colours, 3), page.samplesperpixel
    if total < count:
        raise _refusal(page)
    kinds = [int(kind) for kind in page.extrasamples][: total - count]
    if total == count + 1 and not kinds:
        kinds = [_UNASSOCIATED]
    opacity = [i for i, kind in enumerate(kinds) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    if total > count and colours is not Colours.RGB and (total > count + 1 or not opacity):
        raise _refusal(page, " (several channels)")
    alpha = count + opacity[0] if opacity else None
    white = _WHITE.get(colours, (255,) * count)
    return Samples(
        colours=colours,
        count=count,
        alpha=alpha,
        premultiplied=bool(opacity) and kinds[opacity[0]] == _ASSOCIATED,
        white=white + (255,) * (total - count),
    )


def orientation_of(page: tifffile.TiffPage) -> int:
    """The Orientation tag, 1 to 8: how to mirror and rotate a page for display; 1 is as stored."""
    found = page.tags.valueof(274, 1)
    return int(found) if found in range(1, 9) else 1


def page_scale(page: tifffile.TiffPage) -> ScaleCandidate:
    """The mpp from a page's resolution tags, NaN if there are none."""
    unit = _UNITS.get(int(page.tags.valueof(296) or 2), "")
    imagej = re.search(r"(?m)^unit=(.+)$", page.description or "")
    if imagej and (page.description or "").startswith("ImageJ="):
        # ImageJ writes its unit as text, beside a unit tag of "none".
        unit = imagej.group(1).strip().replace("\\u00B5", "\u00b5")
    found = []
    for code in (282, 283):
        value = page.tags.valueof(code)
        density = value[0] / value[1] if isinstance(value, tuple) and value[1] else math.nan
        found.append(resolution_mpp(density, unit))
    return ScaleCandidate("tiff resolution", found[0], found[1])


def aperio_scale(description: str) -> tuple[ScaleCandidate | None, float]:
    """The mpp and magnification in an Aperio description; None and NaN if it states none."""
    if not description.startswith("Aperio"):
        return None, math.nan
    stated = dict(re.findall(r"\|\s*(MPP|AppMag)\s*=\s*([^|]*)", description))
    mpp = number(stated.get("MPP"))
    scale = None if math.isnan(mpp) else ScaleCandidate("aperio.MPP", mpp, mpp)
    return scale, number(stated.get("AppMag"))


def ome_scale(xml: str, page: tifffile.TiffPage) -> ScaleCandidate | None:
    """The PhysicalSize of a page's image in OME-XML; None if it can't be determined.

    That image has the page's size and, if several have that size, the page as its first plane.
    """
    if "<!ENTITY" in xml:
        return None
    try:
        root = ElementTree.fromstring(xml.encode())  # noqa: S314
    except ElementTree.ParseError:
        return None
    size = (str(page.imagewidth), str(page.imagelength))
    fitting = [p for p in root.findall(".//{*}Pixels") if (p.get("SizeX"), p.get("SizeY")) == size]
    first = [p for p in fitting if _first_plane(p) == page.index]
    found = {_physical_size(pixels) for pixels in (first or fitting)}
    return found.pop() if len(found) == 1 else None


def _first_plane(pixels: ElementTree.Element) -> int:
    planes = [number(data.get("IFD", "0")) for data in pixels.findall("{*}TiffData")]
    return int(planes[0]) if planes and not math.isnan(planes[0]) else 0


def _physical_size(pixels: ElementTree.Element) -> ScaleCandidate | None:
    if "PhysicalSizeX" not in pixels.attrib:
        return None
    x, y = (
        micrometres(
            pixels.get(f"PhysicalSize{axis}", pixels.get("PhysicalSizeX")),
            pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"),
        )
        for axis in "XY"
    )
    return ScaleCandidate("ome", x, y)

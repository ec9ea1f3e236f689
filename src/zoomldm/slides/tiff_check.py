"""TIFF tags that OpenSlide ignores or misinterprets."""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile

from zoomldm.errors import SlideError
from zoomldm.slides.backend import ScaleCandidate, one_line
from zoomldm.slides.tiff_level import READ_ERRORS
from zoomldm.slides.tiff_tags import aperio_scale, ome_scale, orientation_of, page_scale

PLAIN = ("aperio", "generic-tiff")  # drivers that read any TIFF of their kind unchecked
_TIFF = (*PLAIN, "leica", "philips-tiff", "trestle", "ventana")
_CONVERTED = (0, 1, 2, 3, 5, 6)  # photometrics that libtiff converts to RGB correctly
_OPACITY = {1, 2}
_MASK = 4  # bit of NewSubfileType
_NOT_THE_SLIDE = re.compile(r"(?im)^\s*(label|macro)\b")


@dataclass
class TiffFindings:
    """What the tags add to OpenSlide's view of a file.

    Attributes:
        misread: why OpenSlide reads different pixels than the file holds; None if it doesn't.
        scales: mpp values that the file states, best first.
        power: magnification that the file states, NaN if it states none.
        named: sizes in px of the pages described as label or macro image.
    """

    misread: str | None = None
    scales: list[ScaleCandidate] = field(default_factory=list)
    power: float = float("nan")
    named: set[tuple[int, int]] = field(default_factory=set)


def check_tiff(path: Path, vendor: str, size: tuple[int, int]) -> TiffFindings:
    """Check the tags of a slide that OpenSlide has opened.

    Args:
        path: the file.
        vendor: the driver that OpenSlide chose.
        size: width and height in px of the level that OpenSlide takes as the finest.

    Raises:
        SlideError: the image would come out scrambled, and nothing else can read it.
    """
    if vendor not in _TIFF:
        return TiffFindings()
    try:
        with tifffile.TiffFile(path) as tiff:
            return _findings(path, vendor, size, tiff)
    except (*READ_ERRORS, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path}: its TIFF tags can't be looked at ({one_line(error)}); it is taken as "
            "OpenSlide reads it",
            stacklevel=5,
        )
        return TiffFindings()


def _findings(
    path: Path, vendor: str, size: tuple[int, int], tiff: tifffile.TiffFile
) -> TiffFindings:
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    sizes = [(page.imagewidth, page.imagelength) for page in pages]
    page = next((p for p, s in zip(pages, sizes, strict=True) if s == size and p.is_tiled), None)
    if vendor not in PLAIN:
        if page is not None and orientation_of(page) != 1:
            raise SlideError(
                f"{path}: its Orientation tag is {orientation_of(page)}, which OpenSlide applies "
                "to each tile by itself; expected 1: save it as it is to be seen"
            )
        return TiffFindings()
    if page is None:
        return TiffFindings()
    found = TiffFindings(misread=_misread(page, vendor, tiff.is_ome))
    found.named = {
        s
        for p, s in zip(pages[1:], sizes[1:], strict=True)
        if _NOT_THE_SLIDE.search(p.description or "") and s != size
    }
    if vendor == "generic-tiff":
        images = [p for p in pages if not p.subfiletype & _MASK] or [page]
        if max(p.imagewidth * p.imagelength for p in images) > size[0] * size[1]:
            found.misread = "a larger image is in the file"
        own, found.power = aperio_scale(page.description or "")
        ome = tiff.ome_metadata if tiff.is_ome else None
        scales = [ome_scale(ome, page) if ome else None, own, page_scale(page)]
        found.scales = [scale for scale in scales if scale is not None]
    return found


def _misread(page: tifffile.TiffPage, vendor: str, is_ome: bool) -> str | None:
    """Why OpenSlide reads a page differently from what its tags say, or None."""
    if orientation_of(page) != 1:
        return "Orientation tag"
    if int(page.photometric) not in _CONVERTED:
        return "colours"
    if page.dtype is None or page.dtype.kind not in "ub":
        return "samples that are no unsigned numbers"
    colours = {2: 3, 6: 3, 5: 4}.get(int(page.photometric), 1)
    extras = {int(kind) for kind in page.extrasamples}
    # libtiff takes any fourth sample as opacity, and gets that of grey wrong.
    if page.samplesperpixel > colours and (colours < 3 or not extras or not extras <= _OPACITY):
        return "samples that are no opacity"
    # OpenSlide sees only the first image of an OME-TIFF, without its smaller levels.
    return "OME-TIFF" if is_ome and vendor == "generic-tiff" and page.dtype == np.uint8 else None

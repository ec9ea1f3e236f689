"""The mpp of a slide: from the option, the slide's properties or its TIFF resolution."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoomldm.errors import SlideError
from zoomldm.geometry.levels import BASE_MPP
from zoomldm.slides.backend import ScaleCandidate

PLAUSIBLE = (0.05, 5.0)
_PIXEL_AT_1X = 10.0  # usual mpp of scanners: this, divided by the magnification
_APART = 1.6  # factor by which the mpp may differ from it; 20x slides have 0.4 to 0.55
_APART_LENS = 3.0
_COARSE = 1.5  # times the mpp of 20x; scanners' 20x is up to 1.1 times
_MICROMETRES = {  # lengths of OME and TIFF units
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "nm": 1e-3,
    "inch": 25400.0,
    "in": 25400.0,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "micrometer": 1.0,
}


@dataclass(frozen=True)
class Scale:
    """The mpp of both axes and its source."""

    mpp_x: float
    mpp_y: float
    source: str


def plausible(mpp: float) -> bool:
    """Whether an mpp is in 0.05 to 5 (NaN is not)."""
    return PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]


def number(text: object) -> float:
    """A property as float, NaN if it is missing or not a number."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return math.nan


def micrometres(value: object, unit: str) -> float:
    """A length in micrometres, NaN if the number or unit is unknown."""
    return number(value) * _MICROMETRES.get(unit.strip().lower(), math.nan)


def resolution_mpp(per_unit: object, unit: str) -> float:
    """The mpp of a TIFF resolution in px per unit, NaN if it is unusable."""
    density = number(per_unit)
    return _MICROMETRES.get(unit.strip().lower(), math.nan) / density if density > 0 else math.nan


def property_scales(
    properties: Mapping[str, str], tags: Sequence[ScaleCandidate] = ()
) -> list[ScaleCandidate]:
    """The mpp values in OpenSlide's properties, best first.

    OpenSlide derives the mpp of its `generic-tiff` from the TIFF resolution, which comes last.

    Args:
        properties: OpenSlide's properties.
        tags: mpp values from tags that OpenSlide does not read, best first; they come before the
            resolution that it does read.
    """
    own = ScaleCandidate(
        "openslide.mpp",
        number(properties.get("openslide.mpp-x")),
        number(properties.get("openslide.mpp-y")),
    )
    aperio = number(properties.get("aperio.MPP"))
    unit = properties.get("tiff.ResolutionUnit", "")
    tiff = ScaleCandidate(
        "tiff resolution",
        resolution_mpp(properties.get("tiff.XResolution"), unit),
        resolution_mpp(properties.get("tiff.YResolution"), unit),
    )
    generic = properties.get("openslide.vendor") == "generic-tiff"
    found = [] if generic else [own]
    return [*found, ScaleCandidate("aperio.MPP", aperio, aperio), *tags, tiff]


def warn_of_scale(path: Path, scale: Scale, power: object, aperio: bool) -> None:
    """Warn of a scale that contradicts the stated magnification, or is coarser than 20x.

    Args:
        path: the slide, for the message.
        scale: the scale found.
        power: the magnification that the slide states, if any.
        aperio: whether `power` is that of the pixels; otherwise it is the objective's, and another
            lens in front of the camera may make the pixels finer.
    """
    mpp = math.sqrt(scale.mpp_x * scale.mpp_y)
    usual = _PIXEL_AT_1X / number(power) if number(power) > 0 else math.nan
    apart = max(mpp / usual, usual / mpp)
    if scale.source != "option" and apart > (_APART if aperio else _APART_LENS):
        warnings.warn(
            f"{path}: {mpp:g} micrometres per pixel ({scale.source}) don't go with its "
            f"magnification of {number(power):g} (about {usual:g}); pass --mpp if they are wrong",
            stacklevel=4,
        )
    if mpp > _COARSE * BASE_MPP:
        warnings.warn(
            f"{path}: its finest level has {mpp:g} micrometres per pixel, coarser than 20x "
            f"({BASE_MPP:g}): it is enlarged {mpp / BASE_MPP:.1f} times, and has no more detail "
            "than before",
            stacklevel=4,
        )


def find_scale(path: Path, candidates: Sequence[ScaleCandidate], option: float | None) -> Scale:
    """The mpp from the option, else from the first plausible candidate.

    Raises:
        SlideError: the option is outside 0.05 to 5, or nothing plausible is known.
    """
    low, high = PLAUSIBLE
    if option is not None:
        if not plausible(option):
            raise SlideError(
                f"{path}: --mpp {option:g} is not plausible; expected micrometres per pixel "
                f"from {low:g} to {high:g}, such as 0.25 for a 40x scan or 0.5 for 20x"
            )
        return Scale(float(option), float(option), "option")
    for source, x, y in candidates:
        if plausible(x) and plausible(y):
            if abs(x - y) > 0.01 * min(x, y):
                warnings.warn(
                    f"{path}: mpp differs between the axes by over 1 % ({x:g} and {y:g}, from "
                    f"{source}); pass --mpp if that is wrong",
                    stacklevel=3,
                )
            return Scale(x, y, source)
    stated = [
        f"{source} {x:g}" for source, x, y in candidates if not (math.isnan(x) or math.isnan(y))
    ]
    found = f"implausible mpp ({', '.join(stated)})" if stated else "no mpp in the file"
    raise SlideError(
        f"{path}: {found}; pass --mpp with the micrometres per pixel of its finest level "
        f"({low:g} to {high:g})"
    )

"""The region on screen as a PNG or TIFF file that records the origin of its pixels."""

import io
import json
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoomldm.errors import RegionError
from zoomldm.geometry.levels import COUNT, NAMES, level_mpp
from zoomldm.viewer.catalogue import Entry
from zoomldm.viewer.pictures import Pixels

MOST_PIXELS = 4 << 20
NOTICE = "Regenerated, not for diagnosis"


def check_region(entry: Entry, level: int, x: int, y: int, w: int, h: int) -> None:
    """Refuse a region that is not inside a level, or is too large for one request.

    Raises:
        RegionError: the reason.
    """
    if not 0 <= level < COUNT:
        raise RegionError(f"level {level} does not exist; expected 0 to {COUNT - 1}")
    width, height = entry.sizes[level]
    if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
        raise RegionError(
            f"region {x},{y},{w},{h} is not inside level {NAMES[level]}, which has "
            f"{width} x {height} px"
        )
    if w * h > MOST_PIXELS:
        raise RegionError(
            f"region of {w} x {h} px; the viewer exports up to {MOST_PIXELS} px: zoom in, or use "
            "`zoomldm decompress`"
        )


def region_file(
    entry: Entry,
    seed: int,
    level: int,
    region: tuple[int, int, int, int],
    kind: Literal["png", "tif"],
) -> bytes:
    """Encode a region (x, y, w, h in px of a level) as a PNG or TIFF with its provenance."""
    x, y, w, h = region
    image = entry.image
    image.check()
    pixels = image.read(seed, level, x, y, w, h)
    real = image.is_real(level)
    provenance = {
        **image.provenance(seed),
        "slide": entry.name,
        "level": NAMES[level],
        "mpp": level_mpp(level),
        "region": [n << level for n in region],
        "region_is": "x, y, w, h in px of the 0.5 mpp raster",
        "pixels_are": "real" if real else "generated",
        "notice": None if real else NOTICE,
    }
    return _png(pixels, provenance, level) if kind == "png" else _tiff(pixels, provenance, level)


def _png(pixels: Pixels, provenance: dict[str, Any], level: int) -> bytes:
    info = PngInfo()
    info.add_text("Software", "zoomldm")
    if provenance["notice"]:
        info.add_text("Disclaimer", provenance["notice"])
    info.add_itxt("zoomldm", json.dumps(provenance, separators=(",", ":")))
    out = io.BytesIO()
    dpi = 25_400 / level_mpp(level)
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        out, "PNG", pnginfo=info, dpi=(dpi, dpi), compress_level=3
    )
    return out.getvalue()


def _tiff(pixels: Pixels, provenance: dict[str, Any], level: int) -> bytes:
    out, scale = io.BytesIO(), 1e4 / level_mpp(level)
    tifffile.imwrite(
        out,
        pixels,
        photometric="rgb",
        compression="zlib",
        predictor=True,
        resolution=(scale, scale),
        resolutionunit="CENTIMETER",
        description=json.dumps(provenance, separators=(",", ":")),
        metadata=None,
        software="zoomldm",
    )
    return out.getvalue()

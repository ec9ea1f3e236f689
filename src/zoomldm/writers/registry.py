"""Which writer a name asks for."""

from pathlib import Path
from typing import Literal

from zoomldm.errors import ConfigError
from zoomldm.writers.writer import Writer

Flavour = Literal["plain", "ome", "aperio"]
PICTURE = ".png"
# Longest endings first: `.ome.tif` is not just a `.tif`.
ENDINGS = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs"),
    *(".ome.zarr", ".zarr", ".dcm", ".dzi", PICTURE),
)
FOLDERS = (".zarr", ".ome.zarr", ".dcm")  # what isn't one file
KNOWN = ".tif, .ome.tif, .svs, .zarr, .dcm, .dzi, .png"
_FLAVOURS: dict[str, Flavour] = {".ome.tif": "ome", ".ome.tiff": "ome", ".svs": "aperio"}


def ending(target: Path) -> str | None:
    """The ending of a name that says its format, None where there is none."""
    name = target.name.lower()
    return next((e for e in ENDINGS if name.endswith(e) and name != e), None)


def writer_for(target: Path, flavour: Flavour | None = None) -> Writer:
    """The writer of a name's format; modules of a format are loaded when it is asked for.

    Args:
        target: the output; its ending says the format.
        flavour: of a TIFF; None: what the ending says.

    Raises:
        ConfigError: an ending that isn't known, or a flavour that doesn't go with it.
    """
    found = ending(target)
    if found is None or found == PICTURE:
        raise ConfigError(unknown(target))
    if found in (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".svs"):
        from zoomldm.writers.tiff import Tiff

        own = _FLAVOURS.get(found)
        if flavour and own and flavour != own:
            raise ConfigError(f"{target}: ending {found} is TIFF flavour {own}, not {flavour}")
        return Tiff(flavour or own or "plain")
    if flavour:
        raise ConfigError(f"{target}: a TIFF flavour is for .tif; ending {found} has none")
    if found in (".zarr", ".ome.zarr"):
        from zoomldm.writers.omezarr import OmeZarr

        return OmeZarr()
    if found == ".dcm":
        from zoomldm.writers.dicom import Dicom

        return Dicom()
    from zoomldm.writers.deepzoom import DeepZoom

    return DeepZoom()


def unknown(target: Path) -> str:
    """What is said of a name without an ending that is known."""
    return (
        f"{target}: ending {target.suffix!r} is not known; expected {KNOWN} or a folder that exists"
    )
